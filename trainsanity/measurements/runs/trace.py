"""A few steps of the user's Trainer, in values by which two runs can be compared."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.step.record_trainer import alone
from trainsanity.measurements.step.sampling import sample
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class CannotSave(Exception):
    """The Trainer raised while it saved a checkpoint; the text says what."""


@dataclass
class Trace:
    """What some steps did; everything but ``weights`` is a JSON value.

    Attributes:
        batches: for each optimizer step, by the number of steps before it: a hash of every
            micro-batch that ``training_step`` was given.
        losses: likewise, what ``training_step`` returned.
        moment: what the first step after the cut finds; see :func:`loop_state`.
        end: a hash of each parameter after the last step, by name.
        weights: a sample of each trainable parameter after the last step.
    """

    batches: dict[int, list[str]] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=dict)
    moment: dict[str, Any] = field(default_factory=dict)
    end: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> str:
        """Where the first number stands that is none; empty if all are numbers."""
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
        per_epoch: optimizer steps of an epoch; None for a stream, whose end nobody knows.
    """

    cut: int
    steps: int
    per_epoch: int | None


def plan_of(pipeline: Pipeline) -> Plan:
    """Two steps, a cut and two more; three and three where two steps would end an epoch.

    In the middle of an epoch a resumed run has rows to skip, and only there does it show whether
    it skips the right ones.

    Raises:
        Skip: the run is too short to be cut.
    """
    trainer = pipeline.trainer
    with preserved(pipeline), quiet(pipeline):
        trainer.args.dataloader_num_workers = 0
        trainer.args.dataloader_prefetch_factor = None
        trainer.args.dataloader_persistent_workers = False
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
    """Train as far as the plan goes, as the user's Trainer does it, and put everything back.

    Args:
        pipeline: with a Trainer; its callbacks, reports and evaluations are off.
        plan: where it is cut.
        folder: takes the place of ``output_dir``.
        resume: the checkpoint from which the run goes on.
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
    """Saving shows how far it is, which nobody watches here."""
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
        """Saves where it is told, and stops the run at its end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            step = state.global_step
            control.should_log = control.should_evaluate = False
            control.should_save = saving[0] = step in saves
            control.should_training_stop = step >= plan.steps
            if between is not None and step == plan.cut:
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
    training_step = trainer.training_step

    def watching(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        step = int(trainer.state.global_step)
        if step >= plan.cut and not seen.moment:
            seen.moment = loop_state(trainer)
        seen.batches.setdefault(step, []).append(hash_of(inputs))
        loss = training_step(model, inputs, *args, **kwargs)
        seen.losses.setdefault(step, []).append(float(loss))
        return loss

    trainer.training_step = watching


def loop_state(trainer: Any) -> dict[str, Any]:
    """All that the next step depends on besides its rows, as JSON values that can be compared."""
    model, optimizer = trainer.model, trainer.optimizer
    inner = getattr(optimizer, "optimizer", optimizer)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "weights": dict(zip(named, hashes(named.values()), strict=True)),
        "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
        "settings": {key: repr(value) for key, _, _, value in settings(model)},
        "optimizer": _optimizer_state(inner),
        "learning rate": [float(group["lr"]) for group in inner.param_groups],
        "scheduler": int(getattr(trainer.lr_scheduler, "last_epoch", 0)),
        "random numbers": random_hashes(),
    }


def settings(model: Any) -> list[tuple[str, Any, str, Any]]:
    """Plain attributes of the modules, as ``(name, module, attribute, value)``."""
    return [
        (f"{name}.{attribute}".lstrip("."), module, attribute, value)
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        # Whether it trains is set by each step; what begins with _ is the library's own.
        if isinstance(value, bool | int | float | str)
        and attribute != "training"
        and not attribute.startswith("_")
    ]


def _optimizer_state(optimizer: Any) -> list[dict[str, Any]]:
    """For each tensor that it steps, a hash of every number that it remembers of it."""
    import torch

    states = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            tensors = {name: v for name, v in state.items() if torch.is_tensor(v)}
            numbers = {name: v for name, v in state.items() if isinstance(v, int | float)}
            states.append(dict(zip(tensors, hashes(tensors.values()), strict=True)) | numbers)
    return states


def random_hashes() -> dict[str, str]:
    """A hash of each generator that the process shares."""
    import numpy
    import torch
    import xxhash

    states = {
        "python": repr(random.getstate()).encode(),
        "numpy": repr(numpy.random.get_state()[1].tolist()).encode(),  # type: ignore[index]
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_initialized():
        states["cuda"] = b"".join(s.numpy().tobytes() for s in torch.cuda.get_rng_state_all())
    return {name: xxhash.xxh3_64_hexdigest(state) for name, state in states.items()}


def hash_of(inputs: Any) -> str:
    """A hash of a batch's tensors, by name, shape and bits."""
    import torch
    import xxhash

    digest = xxhash.xxh3_64()
    for name in sorted(inputs):
        value = inputs[name]
        if torch.is_tensor(value):
            bits = value.detach().cpu().contiguous()
            digest.update(f"{name}{tuple(bits.shape)}{bits.dtype}".encode())
            digest.update(bits.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def max_weight_difference(one: Trace, other: Trace) -> float:
    """The largest difference between the weights that two runs end with; NaN counts as infinite."""
    worst = 0.0
    for name, weights in one.weights.items():
        if name not in other.weights:
            return float("inf")
        difference = float((weights.float() - other.weights[name].float()).abs().max())
        worst = max(worst, float("inf") if math.isnan(difference) else difference)
    return worst
