"""The learning-rate curve as the arguments describe it, without a model."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.rewind import rewound
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.captured import Captured

POINTS = 2_000
"""Steps at which a long curve is evaluated; the curve is smooth between them."""


@dataclass(frozen=True)
class Schedule:
    """Learning rate used by optimizer step k, counted from 0.

    Attributes:
        max_steps: optimizer steps planned.
        warmup_steps: steps of warm-up.
        curve: step to learning rate.
        rate: what the curve multiplies: the rate of an optimizer that the user built, else
            ``learning_rate`` of the arguments; 0 for a custom training loop, which has none.
        epochs: the schedule of a script's own loop, which steps it once per batch, is as long as
            this number of its epochs, counted in batches: it may be meant so; 0 where it is not.
        calls: how often the scheduler of a script's own loop is stepped for one optimizer step.
        run: the epochs that such a script has, where its source tells.
        per_process: the curve where accelerate steps a prepared scheduler once per process; None
            where it does not.
    """

    max_steps: int
    warmup_steps: int
    curve: dict[int, float]
    rate: float = 0.0
    per_process: dict[int, float] | None = None
    epochs: int = 0
    calls: int = 1
    run: int | None = None

    @property
    def peak(self) -> float:
        """The highest rate of the run."""
        return max(self.curve.values())


@measurement(Cost.STATIC)
def schedule(pipeline: Pipeline) -> Schedule:
    """Build the scheduler that the arguments ask for on a stand-in parameter and read its curve."""
    import torch
    from transformers import get_scheduler

    trainer = pipeline.trainer
    if trainer is None:
        return _of_loop(pipeline)
    if trainer.lr_scheduler is not None:
        raise Skip("the scheduler was built by the user: there are no arguments to compare it with")
    args = trainer.args
    max_steps = planned_steps(pipeline)
    warmup = args.get_warmup_steps(max_steps)
    rate = _rate(trainer.optimizer, args)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs or None,
    )
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise Skip(f"{args.lr_scheduler_type} depends on more than the step: it is not simulated")
    curve = curve_of(scheduler, args, max_steps)
    assert curve is not None
    return Schedule(max_steps, warmup, curve, rate)


def _rate(optimizer: Any, args: Any) -> float:
    """Return the rate that the schedule multiplies.

    The Trainer's scheduler multiplies what the optimizer was built with; ``learning_rate`` is used
    only where the Trainer builds the optimizer.
    """
    if optimizer is None:
        return float(args.learning_rate)
    group = optimizer.param_groups[0]
    # A rate of 0 is held against the arguments: nothing would be trained.
    return float(group.get("initial_lr", group["lr"])) or float(args.learning_rate)


def _of_loop(pipeline: Pipeline) -> Schedule:
    """The curve that a loop's scheduler follows when it is stepped once per optimizer step."""
    import torch

    if pipeline.captured is not None:
        return _of_captured(pipeline, pipeline.captured)
    scheduler = getattr(pipeline.lr_scheduler, "scheduler", pipeline.lr_scheduler)
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        raise Skip("this loop has no lr_scheduler whose rate depends on the step alone")
    factor, rate, done = scheduler.lr_lambdas[0], scheduler.base_lrs[0], scheduler.last_epoch
    steps = range(pipeline.optimizer_steps + 1)
    times, prepared = _steps_at_once(pipeline), None
    with rewound(schedule=factor):
        curve = {k: float(rate * factor(done + k)) for k in steps}
        if times > 1:
            prepared = {k: float(rate * factor(done + times * k)) for k in steps}
    return Schedule(0, 0, curve, per_process=prepared)


def _of_captured(pipeline: Pipeline, captured: Captured) -> Schedule:
    """The rates of a script's own scheduler where it is stepped once per optimizer step."""
    import torch

    scheduler, optimizer = pipeline.lr_scheduler, pipeline.optimizer
    if scheduler is None:
        raise Skip("this loop has no lr_scheduler")
    if not captured.scheduler_calls:
        raise Skip("the scheduler was not stepped between the first two optimizer steps, or it is "
                   "told where it is: what it counts is not known")  # fmt: skip
    state = copy.deepcopy(scheduler.state_dict())
    before = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    curve = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the order of the two steps
        for k in range(len(captured.steps)):
            curve[k] = float(optimizer.param_groups[0]["lr"])
            scheduler.step()
    scheduler.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, before, strict=True):
        group.update(values)
    steps, length = _length_of(scheduler), captured.length
    accumulation = pipeline.args.gradient_accumulation_steps
    epochs = 0
    if steps and length and captured.scheduler_calls == accumulation > 1 and not steps % length:
        epochs = steps // length
    if isinstance(scheduler, torch.optim.lr_scheduler.SequentialLR):
        raise Skip("the scheduler is made of others: it is not simulated")
    calls = captured.scheduler_calls
    return Schedule(0, 0, curve, epochs=epochs, calls=calls, run=captured.epochs)


def _length_of(scheduler: Any) -> int | None:
    """Return for how many steps a scheduler was built; None where it does not say."""
    for name in ("total_steps", "T_max", "total_iters"):
        if isinstance(found := getattr(scheduler, name, None), int):
            return found
    keywords = getattr(next(iter(getattr(scheduler, "lr_lambdas", ())), None), "keywords", {})
    found = keywords.get("num_training_steps")
    return found if isinstance(found, int) else None


def _steps_at_once(pipeline: Pipeline) -> int:
    """Return how many steps accelerate's wrapper takes for each of the optimizer's."""
    wrapper = pipeline.lr_scheduler
    linked = getattr(wrapper, "step_with_optimizer", False)
    if not linked or getattr(wrapper, "split_batches", True):
        return 1
    from accelerate.state import AcceleratorState

    return int(AcceleratorState().num_processes)


def curve_of(scheduler: Any, args: Any, max_steps: int) -> dict[int, float] | None:
    """The first group's learning rate at the steps where curves are compared.

    None for a scheduler whose rate depends on more than the step.
    """
    import torch

    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        return None
    warmup = args.get_warmup_steps(max_steps)
    stride = max(1, max_steps // POINTS)
    steps = {*range(0, max_steps, stride), *range(min(100, max_steps)), max_steps - 1}
    steps |= {min(k, max_steps - 1) for k in (warmup // 2, warmup)}
    factor, rate = scheduler.lr_lambdas[0], scheduler.base_lrs[0]
    with rewound(schedule=factor):
        return {k: float(rate * factor(k)) for k in sorted(steps)}


def planned_steps(pipeline: Pipeline) -> int:
    """Optimizer steps of the whole run: ``max_steps``, or epochs times steps per epoch."""
    import math

    args = pipeline.args
    if args.max_steps > 0:
        return int(args.max_steps)
    steps: int = math.ceil(args.num_train_epochs * steps_of_an_epoch(pipeline))
    return steps


def steps_of_an_epoch(pipeline: Pipeline) -> int:
    """Optimizer steps of one epoch of a Trainer.

    It counts one step per ``gradient_accumulation_steps`` batches of each process, and one more for
    what is left over at the end of an epoch.  How many batches there are the Trainer's own loader
    knows, which may drop the last one or draw from a sampler of the user's.
    """
    import math

    from trainsanity.isolation.snapshot import preserved
    from trainsanity.measurements.batches.batch import quiet

    with preserved(pipeline), quiet(pipeline):
        batches = len(pipeline.trainer.get_train_dataloader())
    steps: int = max(math.ceil(batches / pipeline.args.gradient_accumulation_steps), 1)
    return steps
