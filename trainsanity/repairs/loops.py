"""Repairs of a loop's course: what the optimizer holds, and when the schedule moves on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.repairs import CannotApply, ChangesNothing, can_step_again
from trainsanity.repairs.settings import changed, schedule_of

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@contextlib.contextmanager
def groups_completed(pipeline: Pipeline) -> Iterator[None]:
    """Have the optimizer's groups hold what is trainable in the model, and nothing else."""
    if not can_step_again(pipeline):
        raise CannotApply("only a loop that can be asked again has an optimizer to be completed")
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    groups = optimizer.param_groups
    before = [list(group["params"]) for group in groups]
    own = {id(p) for p in pipeline.model.parameters()}
    held = {id(p) for params in before for p in params}
    lost = [p for p in pipeline.model.parameters() if p.requires_grad and id(p) not in held]
    if not lost and held <= own:
        raise ChangesNothing("the optimizer holds what is trainable, and nothing else")
    # One group more would be one more than the schedule has rates.
    for k, params in enumerate(before):
        kept = [p for p in params if id(p) in own]
        groups[k]["params"] = [*kept, *([] if k else lost)]
    try:
        yield
    finally:
        for group, params in zip(groups, before, strict=True):
            group["params"] = params
        for p in lost:
            optimizer.state.pop(p, None)


@contextlib.contextmanager
def schedule_by_the_step(pipeline: Pipeline) -> Iterator[None]:
    """Let the schedule move on once in each optimizer step, however often it is called."""
    schedule, train_step = pipeline.lr_scheduler, pipeline.train_step
    if not can_step_again(pipeline) or schedule is None or train_step is None:
        raise CannotApply("only a loop that can be asked again has a schedule to be held")
    forward = schedule.step

    def step(batches: Any) -> Any:
        calls: list[Any] = []
        with changed(schedule, step=lambda *args, **kwargs: calls.append((args, kwargs))):
            said = train_step(batches)
        if calls:
            args, kwargs = calls[-1]
            forward(*args, **kwargs)
        return said

    with changed(pipeline, train_step=step):
        yield


@contextlib.contextmanager
def schedule_stretched(pipeline: Pipeline, factor: float) -> Iterator[None]:
    """Have a ``LambdaLR``'s functions run through their steps this many times as fast."""
    schedule = schedule_of(pipeline)
    functions = getattr(schedule, "lr_lambdas", None)
    if functions is None:
        raise CannotApply("the schedule is no LambdaLR of the user's")
    faster = [lambda k, own=own: own(round(k * factor)) for own in functions]
    with changed(schedule, lr_lambdas=faster):
        yield
