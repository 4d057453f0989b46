"""torchtest2, as its README says: ``check_model`` with one batch and the optimizer.

With its Hugging Face plugin; its documented hook ``forward_fn`` hands over the Trainer's own
``compute_loss``, so that it sees what a subclass does to the loss.  Classifiers are judged a second
time as ``(logits, labels)`` with ``loss_fn=F.cross_entropy``, without which it does not look at the
initial loss.  What it calls a warning counts as red where ``strict`` is asked for, which its README
offers, too.
"""

from __future__ import annotations

from typing import Any

import torch
import torchtest2
from torchtest2 import Status

from .looks import Look, line
from .subjects import Subject
from .wiring import first_batch, is_single_label, is_wide, trainer_of, without_labels

PACKAGE = "torchtest2"

STAGES = {
    "forward": {"model", "collator", "tokenizer"},
    "output_shape": {"model"},
    "output_finite": {"model"},
    "output_range": {"model"},
    "output_varies": {"model"},
    "eval_determinism": {"model"},
    "loss": {"loss", "dataset"},
    "initial_loss": {"loss", "model"},
    "optimizer_coverage": {"update"},
    "gradient_flow": {"gradient"},
    "gradient_magnitude": {"gradient"},
    "params_change": {"update", "gradient", "schedule"},
    "frozen_params": {"update", "gradient"},
    "input_dependency": {"model", "collator", "tokenizer"},
    "batch_independence": {"model"},
    "overfit_batch": {"loop", "update", "schedule"},
    "gradcheck": {"gradient"},
    "gpu": set(),
}
"""By check, the stages that its messages name as causes."""

STEPS = 50
"""Of ``overfit_batch``, as in the README's example with a transformers model; a fifth of it where a
step takes seconds."""


def look(subject: Subject) -> Look:
    """Both calls, on pipelines of their own."""
    said = Look()
    trainer = trainer_of(subject)
    batch = first_batch(trainer)

    def compute_loss(model: Any, inputs: Any, labels: Any) -> Any:
        given = dict(inputs) if labels is None else {**inputs, "labels": labels}
        return trainer.compute_loss(model, given)

    report = torchtest2.check_model(
        trainer.model,
        without_labels(batch),
        batch.get("labels"),
        plugin="huggingface",
        forward_fn=compute_loss,
        loss_fn=lambda loss, _labels=None: loss,
        # Without the schedule, whose first rate is 0 in a warm-up: it takes a few steps only.
        optimizer=trainer.create_optimizer(),
        overfit_steps=STEPS // 5 if is_wide(trainer) else STEPS,
    )
    _take(said, report)
    if is_single_label(trainer, batch):
        trainer = trainer_of(subject)
        report = torchtest2.check_model(
            trainer.model,
            without_labels(batch),
            batch["labels"],
            loss_fn=torch.nn.functional.cross_entropy,
            forward_fn=lambda model, inputs, _labels: model(**inputs).logits,
            eval_forward_fn=lambda model, inputs: model(**inputs).logits,
            output_shape=(None, trainer.model.config.num_labels),
            skip={name for name in torchtest2.CHECKS if name not in ("forward", *LOGITS)},
        )
        _take(said, report, LOGITS)
    return said


LOGITS = ("output_shape", "loss", "initial_loss")


def _take(said: Look, report: Any, names: tuple[str, ...] = torchtest2.CHECKS) -> None:
    for result in report.results:
        if result.name not in names:
            continue
        # A pass that raises is told as a failed check; a crash is no detection.
        crashed = " raised " in result.message
        if result.status is Status.FAIL and not crashed:
            said.red[result.name] = line(result.message)
        elif result.status is Status.WARN:
            said.warned[result.name] = line(result.message)
        elif result.status is not Status.PASS:
            said.unable.setdefault(result.name, line(result.message))
    for name in set(said.unable) & (set(said.red) | set(said.warned)):
        del said.unable[name]
