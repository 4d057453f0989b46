"""Tell the quantities apart that a factor equals, by other numbers that were measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainsanity.maths.factors import BETWEEN, NAMING, Left, kept
from trainsanity.maths.tolerances import MARGIN, within

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline

CLIPPED = "max_grad_norm"


def told_apart_by_loss(
    pipeline: Pipeline, recording: Recording, names: list[str], factor: float, logged: float
) -> Left:
    """Return which of several quantities a logged loss's factor is, by the losses of its parts.

    Args:
        pipeline: the run.
        recording: of the step.
        names: of the quantities that the factor equals.
        factor: of the logged loss over what it should be.
        logged: that loss.
    """
    own = recording.own
    if len(names) < 2 or own.reason or not own.losses:
        return Left(names)
    mean = own.expected / own.times_processes(pipeline.args.world_size)
    if not mean > 0:
        return Left(names)
    words = f"the micro-batches by themselves log {mean:.4f}, and together {logged:.4f}"
    return _left(recording, names, factor, logged / mean, words)


def told_apart_by_gradient(
    pipeline: Pipeline, recording: Recording, names: list[str], slope: float
) -> Left:
    """Return which of several quantities a gradient's factor is, by the gradients of its parts.

    Args:
        pipeline: the run.
        recording: of the step.
        names: of the quantities that the factor equals.
        slope: of the gradient over what it should be.
    """
    if len(names) < 2:
        return Left(names)
    if any(CLIPPED in name for name in names):
        words = "the gradient's norm is max_grad_norm before the Trainer clips it"
        return kept(names, [CLIPPED], words)
    own = recording.own
    if own.reason or not own.norm > 0 or not own.weights:
        return Left(names)
    total = own.total * own.times_processes(pipeline.args.world_size)
    words = f"the gradient is {total:.4f} times a mean of its micro-batches' own"
    return _left(recording, names, slope, total, words)


def _left(
    recording: Recording, names: list[str], factor: float, between: float, words: str
) -> Left:
    """Return what is left, by the factor between the step and its micro-batches by themselves.

    A factor of each micro-batch, whatever it comes from, is not between them.
    """
    if not within(abs(between / factor - 1), max(MARGIN * recording.own.eps, NAMING)):
        return Left(names)
    return kept(names, BETWEEN, words)
