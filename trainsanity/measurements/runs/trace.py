"""Record a few steps of the user's Trainer as values by which two runs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.random_states import random_hashes
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.batch_hash import hash_of
from trainsanity.measurements.runs.rows_read import Source, sources_noted
from trainsanity.measurements.step.alone import alone
from trainsanity.measurements.step.sampling import sample
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class CannotSave(Exception):
    """The Trainer raised while it saved a checkpoint; the text is the error."""


@dataclass
class Trace:
    """The record of some steps; everything but ``weights`` and ``sources`` is a JSON value.

    Attributes:
        batches: for each optimizer step, by the number of steps before it: a hash of every
            micro-batch that ``training_step`` was given.
        rows: by the same key, a fingerprint of each micro-batch's rows, where somebody asked.
        losses: by the same key, the losses that ``training_step`` returned.
        built: the modules' plain attributes before the run's first step.
        moment: the :func:`loop_state` before the first step after the cut.
        saved: hashes of the random states at the cut, as a checkpoint there holds them; a batch
            that is read ahead may draw before the next step begins.
        end: a hash of each parameter after the last step, by name.
        weights: a sample of each trainable parameter after the last step.
        sources: what batches were made of, by their hash.
    """

    batches: dict[int, list[str]] = field(default_factory=dict)
    rows: dict[int, list[str]] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=dict)
    built: dict[str, str] = field(default_factory=dict)
    moment: dict[str, Any] = field(default_factory=dict)
    saved: dict[str, str] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict, compare=False, repr=False)

    @property
    def broken(self) -> str:
        """The first loss or weight that is not finite, in words; empty if all are."""
        for step, losses in self.losses.items():
            for loss in losses:
                if not math.isfinite(loss):
                    return f"the loss of step {step + 1} is {loss:g}"
        for name, weights in self.weights.items():
            if not bool(weights.isfinite().all()):
                return f"{name} is not finite after the last step"
        return ""


@dataclass(frozen=True)
class Plan:
    """Where a run is cut, and how far it goes.

    Attributes:
        cut: optimizer steps before the cut.
        steps: optimizer steps in all.
        per_epoch: optimizer steps of an epoch; None for a stream without a length.
    """

    cut: int
    steps: int
    per_epoch: int | None


def plan_of(pipeline: Pipeline) -> Plan:
    """Return a plan of two steps, a cut and two more; of three and three if two end an epoch.

    Only in the middle of an epoch does a resumed run have rows to skip.

    Raises:
        Skip: the run is too short to be cut.
    """
    trainer = pipeline.trainer
    with preserved(pipeline), quiet(pipeline):
        disable_workers(trainer.args)
        loader = trainer.get_train_dataloader()
        try:
            batches = len(loader)
        except TypeError:
            batches = 0
    accumulated = trainer.args.gradient_accumulation_steps
    per_epoch = -(-batches // accumulated) if batches else None
    planned = trainer.args.max_steps
    if planned <= 0 and per_epoch:
        planned = int(trainer.args.num_train_epochs * per_epoch)
    cut = 3 if per_epoch == 2 else 2
    if planned < 2 * cut:
        cut = planned // 2
    if not cut:
        raise Skip(f"a run of {planned} optimizer steps cannot be cut in two")
    return Plan(cut, 2 * cut, per_epoch)


def trace(
    pipeline: Pipeline,
    plan: Plan,
    folder: str,
    *,
    resume: str | None = None,
    saves: Collection[int] = (),
    between: Callable[[], None] | None = None,
) -> Trace:
    """Train with the user's Trainer as far as the plan goes, and restore everything.

    Args:
        pipeline: with a Trainer; its callbacks, reports and evaluations are off.
        plan: where the run is cut, and how far it goes.
        folder: used in place of ``output_dir``.
        resume: the checkpoint from which the run is resumed.
        saves: numbers of steps after which the Trainer saves a checkpoint.
        between: called at the cut.

    Raises:
        CannotSave: the Trainer raised while it saved.
    """
    trainer = pipeline.trainer
    seen, saving = Trace(), [False]
    with preserved(pipeline, weights=True), quiet(pipeline), no_bars():
        pipeline.model.zero_grad()
        alone(
            trainer, folder, _callback(trainer, plan, seen, saves, saving=saving, between=between)
        )
        _watch(trainer, plan, seen)
        try:
            with sources_noted() as seen.sources:
                trainer.train(resume_from_checkpoint=resume)
        except Exception as error:
            if saving[0]:
                raise CannotSave(f"{type(error).__name__}: {first_line(error)}") from error
            raise
        finally:
            trainer.model.zero_grad()
    return seen


@contextmanager
def no_bars() -> Iterator[None]:
    """Disable the progress bars of saving."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _callback(
    trainer: Any,
    plan: Plan,
    seen: Trace,
    saves: Collection[int],
    *,
    saving: list[bool],
    between: Callable[[], None] | None,
) -> Any:
    from transformers import TrainerCallback

    class Conductor(TrainerCallback):
        """Saves after the given steps, and stops the run at its end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            step = state.global_step
            control.should_log = control.should_evaluate = False
            control.should_save = saving[0] = step in saves
            control.should_training_stop = step >= plan.steps
            if step == plan.cut:
                seen.saved = random_hashes()
                if between is not None:
                    between()
            if step >= plan.steps:
                named = dict(trainer.model.named_parameters())
                seen.end = dict(zip(named, hashes(named.values()), strict=True))
                seen.weights = {n: sample(p) for n, p in named.items() if p.requires_grad}
            return control

        def on_save(self, *_: Any, **kwargs: Any) -> None:
            saving[0] = False

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_save = control.should_evaluate = control.should_log = False
            return control

    return Conductor()


def _watch(trainer: Any, plan: Plan, seen: Trace) -> None:
    """Record batches and losses, and the state at the cut."""
    training_step = trainer.training_step

    def watching(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = int(trainer.state.global_step)
        if not seen.built:
            seen.built = plain_settings(trainer.model)
        if step >= plan.cut and not seen.moment:
            seen.moment = loop_state(trainer)
        seen.batches.setdefault(step, []).append(hash_of(inputs))
        loss = training_step(model, inputs, *args, **kwargs)
        seen.losses.setdefault(step, []).append(float(loss))
        return loss

    trainer.training_step = watching


def loop_state(trainer: Any) -> dict[str, Any]:
    """Return all that the next step depends on besides its rows, as comparable JSON values."""
    model, optimizer = trainer.model, trainer.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "weights": dict(zip(named, hashes(named.values()), strict=True)),
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "settings": plain_settings(model),
        "optimizer": _optimizer_state(inner),
        "learning rate": [float(group["lr"]) for group in inner.param_groups],
        "scheduler": int(getattr(trainer.lr_scheduler, "last_epoch", 0)),
        "random numbers": random_hashes(),
    }


def plain_settings(model: Any) -> dict[str, str]:
    """Return plain attributes of the modules in the words of code, by name."""
    return {key: repr(value) for key, _, _, value in settings(model)}


def settings(model: Any) -> list[tuple[str, Any, str, Any]]:
    """Return plain attributes of the modules as ``(name, module, attribute, value)``."""
    return [
        (f"{name}.{attribute}".lstrip("."), module, attribute, value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        # Each step sets ``training``; names with _ belong to the library.
        if isinstance(value, bool | int | float | str)
        and attribute != "training"
        and not attribute.startswith("_")
    ]


def _optimizer_state(optimizer: Any) -> list[dict[str, Any]]:
    """Return a hash of the optimizer's state for each tensor that it updates."""
    import torch

    states = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            tensors = {name: v for name, v in state.items() if torch.is_tensor(v)}
            numbers = {name: v for name, v in state.items() if isinstance(v, int | float)}
            states.append(dict(zip(tensors, hashes(tensors.values()), strict=True)) | numbers)
    return states


def max_weight_difference(one: Trace, other: Trace) -> float:
    """Return the largest difference between two runs' final weights; NaN counts as infinite."""
    worst = 0.0
    for name, weights in one.weights.items():
        if name not in other.weights:
            return float("inf")
        difference = float((weights.float() - other.weights[name].float()).abs().max())
        worst = max(worst, float("inf") if math.isnan(difference) else difference)
    return worst
