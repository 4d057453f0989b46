"""pytest-torch, as its README and guides say: inference, invariance, checkpoint, training, loops.

Its training-loop checks take "your training step": here that is the Trainer's own ``training_step``
with its own clipping, optimizer and schedule, and ``num_items_in_batch`` as the Trainer counts it.
For resuming it is given the Trainer's own functions that save and load a checkpoint.  Padding is
tried with the tokenizer's PAD, on the tokenizer's side.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_torch as pt
import torch
from transformers import TrainerState, get_scheduler
from transformers.trainer_callback import ExportableState

from .looks import Look
from .subjects import Subject
from .wiring import counted, first_batch, is_wide, optimizer_of, trainer_of, without_labels

PACKAGE = "pytest-torch"

STAGES = {
    "inference_contract": {"model"},
    "padding_invariant": {"model", "collator", "tokenizer"},
    "mask_invariant": {"model", "collator", "tokenizer"},
    "checkpoint_roundtrip": {"model", "loop", "update"},
    "gradients_finite": {"gradient", "loss", "model"},
    "all_params_receive_grad": {"gradient", "model"},
    "frozen": {"update", "gradient"},
    "loss_decreases": {"update", "gradient", "loop"},
    "overfits_one_batch": {"update", "gradient", "loop", "dataset"},
    "optimizer_coverage": {"update"},
    "training_finite": {"update", "loss", "gradient", "model"},
    "lr": {"schedule", "update"},
    "accumulation_equivalent": {"loss", "gradient", "update", "schedule"},
    "resume_equivalent": {"loop"},
}
"""By check, the stages that its messages name as causes."""

ITEMS = "num_items_in_batch"

STEPS = 5
"""Of a short run, as its ``hf_trainer`` fixture has them."""


def look(subject: Subject) -> Look:
    """Every check that takes a model, a batch, or a training step."""
    said = Look()
    trainer = trainer_of(subject)
    model, batch = trainer.model, first_batch(trainer)
    inputs = without_labels(batch)
    _inference(said, trainer, inputs, subject)

    def loss(output: Any) -> Any:
        return output.loss

    _ask(said, "gradients_finite", lambda: pt.assert_gradients_finite(model, batch, loss))
    _ask(
        said,
        "all_params_receive_grad",
        lambda: pt.assert_all_params_receive_grad(model, batch, loss),
    )
    model.zero_grad()
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    if frozen:
        _ask(said, "frozen", lambda: pt.assert_frozen(model, batch, loss, frozen))
    _ask(said, "loss_decreases", lambda: pt.assert_loss_decreases(model, batch, loss))
    if is_wide(trainer):
        said.unable["overfits_one_batch"] = "not asked: its 200 steps would take minutes"
    else:
        _ask(said, "overfits_one_batch", lambda: pt.assert_overfits_one_batch(model, batch, loss))
    _ask(
        said,
        "optimizer_coverage",
        lambda: pt.assert_optimizer_coverage(model, optimizer_of(trainer)),
    )
    _loops(said, subject, trainer, batch)
    return said


def _ask(said: Look, name: str, check: Any) -> None:
    said.ask(name, "pytest_torch", check)


def _inference(said: Look, trainer: Any, inputs: dict[str, Any], subject: Subject) -> None:
    model = trainer.model.eval()
    tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
    _ask(said, "inference_contract", lambda: pt.check_inference_contract(model, inputs))
    pad = model.config.pad_token_id
    _ask(
        said,
        "padding_invariant",
        lambda: pt.assert_padding_invariant(
            model,
            inputs,
            side=getattr(tokenizer, "padding_side", "right"),
            pad_value=0 if pad is None else pad,
        ),
    )
    _ask(
        said,
        "mask_invariant",
        lambda: pt.assert_mask_invariant(model, inputs, vocab_size=model.config.vocab_size),
    )
    _ask(
        said,
        "checkpoint_roundtrip",
        lambda: pt.assert_checkpoint_roundtrip(
            lambda: trainer_of(subject).model, inputs, model=model
        ),
    )


def _loops(said: Look, subject: Subject, trainer: Any, batch: dict[str, Any]) -> None:
    def make_setup() -> Any:
        fresh = trainer_of(subject)
        optimizer = optimizer_of(fresh)
        callbacks = [*fresh.callback_handler.callbacks, fresh.control]
        exportable = [one for one in callbacks if isinstance(one, ExportableState)]
        fresh.state = TrainerState(stateful_callbacks=exportable)
        setup = pt.TrainingSetup(fresh.model_wrapped, optimizer, fresh.lr_scheduler)
        setup.trainer = fresh
        return setup

    def make_step(accumulation_steps: int, clips: bool = False) -> Any:
        # Clipping makes gradients of any scale equally long, and would hide what is looked for.
        def step(setup: Any, given: dict[str, Any]) -> Any:
            own, micro = setup.trainer, dict(given)
            items = micro.pop(ITEMS)
            own.args.gradient_accumulation_steps = accumulation_steps
            own.current_gradient_accumulation_steps = accumulation_steps
            loss = own.training_step(setup.model, micro, num_items_in_batch=items)
            if (setup.step_index + 1) % accumulation_steps == 0:
                if clips and own.args.max_grad_norm:
                    own.accelerator.clip_grad_norm_(
                        setup.model.parameters(), own.args.max_grad_norm
                    )
                setup.optimizer.step()
                setup.scheduler.step()
                setup.model.zero_grad()
                own.state.global_step += 1
            return loss

        return step

    def split(given: dict[str, Any], parts: int) -> list[dict[str, Any]]:
        rows = {name: value for name, value in given.items() if name != ITEMS}
        micros = pt.split_batch(rows, parts)
        items = counted(trainer, micros)
        return [{**micro, ITEMS: items} for micro in micros]

    whole = {**batch, ITEMS: counted(trainer, [batch])}
    runs: list[Any] = []
    _ask(
        said,
        "training_finite",
        # Not `assert_healthy`: the first step of a warm-up has a rate of 0, which it calls skipped.
        lambda: (
            runs.append(pt.run_training(make_setup, [whole], make_step(1, True), steps=STEPS))
            or runs[0].assert_finite()
        ),
    )
    if runs:
        _ask(said, "lr", lambda: runs[0].assert_lr(_rates(trainer)))
    _ask(
        said,
        "accumulation_equivalent",
        lambda: pt.assert_accumulation_equivalent(
            make_setup, [whole], make_step, accumulation_steps=2, split=split
        ),
    )
    if subject.runs:
        _ask(
            said,
            "resume_equivalent",
            lambda: pt.assert_resume_equivalent(
                make_setup, [whole], make_step(1, True), steps=4, save=_save, load=_load
            ),
        )


def _rates(trainer: Any) -> list[float]:
    """The learning rates that a user of ``assert_lr`` would expect from the arguments."""
    args = trainer.args
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    warmup = args.get_warmup_steps(args.max_steps)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, warmup, args.max_steps)
    rates = []
    for _ in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


def _save(setup: Any, path: Path) -> None:
    own = setup.trainer
    own.args.output_dir = str(path.parent)
    own._save_checkpoint(setup.model, trial=None)


def _load(setup: Any, path: Path) -> None:
    own = setup.trainer
    (checkpoint,) = path.parent.glob("checkpoint-*")
    own.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    own._load_from_checkpoint(str(checkpoint))
    own._load_optimizer_and_scheduler(str(checkpoint))
    own._load_rng_state(str(checkpoint))
