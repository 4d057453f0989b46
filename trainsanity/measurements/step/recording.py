"""The first optimizer steps, recorded while the user's own code takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.library_warnings import listening
from trainsanity.measurements.step.loss_calls import Corners, loss_calls_seen
from trainsanity.measurements.step.reference_tensors import shared_with_reference
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.loss_places import LossCall
from trainsanity.pipeline import micro_batches_of
from trainsanity.types import OUTCOMES, Blocked, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def _forwards(pipeline: Pipeline) -> int:
    """Return about how many forward passes the steps take, a backward pass counted as two.

    As ``tests/isolation/test_pass_counter.py`` counts them: the steps, and each micro-batch of the
    first once more as a step of its own, with a few trials.  Of a script's own loop, whose steps
    have been taken, each call of the model is repeated.
    """
    each = micro_batches_of(pipeline)
    if pipeline.captured is not None:
        return 5 * each
    steps = 3 * pipeline.optimizer_steps * each
    return steps if pipeline.quick else steps + 3 * (each + 2) + 8


@measurement(Cost.STEP, forwards=_forwards)
def recording(pipeline: Pipeline) -> Recording:
    """Take the first ``pipeline.optimizer_steps`` steps of the run and put everything back.

    Raises:
        Skip: the pipeline has no steps to take, and none that were captured.
    """
    import gc

    import torch

    from trainsanity.measurements.step import record_captured, record_loop, record_trainer

    if pipeline.trainer is not None:
        record = record_trainer.record
    elif pipeline.train_step is not None:
        record = record_loop.record
    elif pipeline.captured is not None:
        record = record_captured.record
    else:
        raise Skip("this pipeline has neither a Trainer nor a train_step to record steps of")
    calls: list[LossCall] = []
    corners: list[Corners] = []
    try:
        with listening(pipeline.library_warnings), loss_calls_seen(pipeline, calls, corners):
            seen = record(pipeline, pipeline.optimizer_steps)
        seen.loss_calls += calls
        seen.corners = corners
        return seen
    except torch.OutOfMemoryError:
        if pipeline.optimizer_steps == 1:
            raise
    except OUTCOMES:
        raise
    except Exception as error:
        if shared_with_reference(pipeline):
            raise Blocked(
                f"training raised {type(error).__name__}: {first_line(error)}",
                by="loss.reference_is_apart",
            ) from error
        raise
    # From its second step on a run holds the optimizer's state beside the activations.
    gc.collect()
    torch.cuda.empty_cache()
    del calls[:], corners[:]
    with loss_calls_seen(pipeline, calls, corners):
        seen = record(pipeline, 1)
    seen.loss_calls, seen.corners, seen.out_of_memory = calls, corners, True
    return seen
