"""Rows of a loop's first call of its model, with other rows beside them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.model.companions import WIDE, Companions, compared
from trainsanity.measurements.model.forward import without_labels
from trainsanity.measurements.model.raised import in_float32
from trainsanity.measurements.step.pull import ModelCall
from trainsanity.measurements.step.steps import Recording
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@measurement(Cost.STEP, forwards=lambda pipeline: 5 * (pipeline.captured is not None))
def called_companions(pipeline: Pipeline, recording: Recording) -> Companions:
    """Ask the rows of a loop's first call of its model beside other rows.

    Raises:
        Skip: there is a Trainer, which ``companions`` asks; the model was not seen to be called, or
            it is not plain which dimension of its arguments counts the rows.
    """
    if pipeline.trainer is not None:
        raise Skip("a Trainer's batches are asked by model.rows_are_independent")
    if pipeline.captured is not None and pipeline.captured.other_models:
        raise Skip("of several models one may compare rows on purpose, as adversaries do")
    if recording.model_call is None:
        raise Skip("the model was not called as a module")
    asked = without_labels(named_call(pipeline, recording.model_call))
    size = _size(pipeline, recording)
    if size < 2:
        raise Skip("a batch of one row has no other rows beside it")
    if not all(_of_rows(value, size) for value in asked.values() if hasattr(value, "shape")):
        raise Skip("the model's arguments do not all have an entry for each row, in front")
    # A model may keep what it was asked last, a state or a queue.
    with preserved(pipeline, weights=True), quiet(pipeline):
        return in_float32(pipeline, lambda way: compared(pipeline, asked, [], size, way))


def _size(pipeline: Pipeline, recording: Recording) -> int:
    """Return how many rows the first batch has.

    Raises:
        Skip: nothing says it.
    """
    if pipeline.captured is None:
        return len(recording.first.micro_steps[0].rows or ())
    if pipeline.captured.rows is None:
        raise Skip("no data loader says how many rows a batch has")
    return pipeline.captured.rows


def named_call(pipeline: Pipeline, call: ModelCall) -> dict[str, Any]:
    """Return the arguments of a call by their names.

    Raises:
        Skip: some have none.
    """
    parameters = inspect.signature(unwrapped(pipeline.model).forward).parameters.values()
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        raise Skip("the model's forward does not name its arguments")
    names = [one.name for one in parameters]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _of_rows(value: Any, size: int) -> bool:
    """Return whether a tensor counts rows in front and, as far as sizes tell, nowhere else."""
    return not value.ndim or (
        value.shape[0] == size and (value.ndim < WIDE or value.shape[1] != size)
    )
