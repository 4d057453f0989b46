"""The collator as it will be at the end of a training."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

from trainsanity.fields import with_targets
from trainsanity.isolation.callbacks import taking_part
from trainsanity.isolation.snapshot import preserved
from trainsanity.maths.alignment import unpacked
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.drawn import listed
from trainsanity.measurements.step.schedule import planned_steps
from trainsanity.objectives.base import IGNORED

if TYPE_CHECKING:
    from trainsanity.measurements.batches.batch import MicroBatch
    from trainsanity.measurements.batches.collating import Collating

BEGINS = ("on_epoch_begin", "on_step_begin")
"""What callbacks hear before a batch is made."""


def whole_at_the_last_step(collating: Collating) -> bool:
    """Return whether all rows of the first step would come out whole at the end of the training.

    The user's callbacks are told of the last step, as of one that begins; without callbacks
    nothing changes.
    """
    pipeline = collating.pipeline
    trainer, told = pipeline.trainer, taking_part(pipeline.trainer)
    if not told:
        return False
    given = {"model": pipeline.model, "processing_class": pipeline.tokenizer}
    with preserved(pipeline), quiet(pipeline):
        trainer.state.max_steps = planned_steps(pipeline)
        trainer.state.global_step = trainer.state.max_steps - 1
        try:
            for callback, event in itertools.product(told, BEGINS):
                getattr(callback, event)(trainer.args, trainer.state, trainer.control, **given)
            return all(_comes_out_whole(collating, micro) for micro in collating.batch)
        except Exception:  # a callback, or a collator, that wants more than it is given here
            return False


def _comes_out_whole(collating: Collating, micro: MicroBatch) -> bool:
    made = collating.collator(copy.deepcopy(micro.sources))
    rows = [*map(listed, micro.rows)]
    parts = unpacked(*with_targets(rows, made, IGNORED), reordered=collating.packs)
    return all(all(collating.placed(*part)) for part in parts)
