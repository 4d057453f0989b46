"""TS306 collator.padding_ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.collator._labels import _labelled, _per_token, label_column
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.fields import IDS
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.objectives.base import IGNORED
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS306",
    "collator.padding_ignored",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    rules_out="loss on padding",
)
def padding_ignored(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Padding is left out of the loss.

    What it checks: that ``labels`` is -100 at every position of padding.

    Why it matters: a model that is taught to predict padding learns an easy task besides its own:
    the loss falls, and every mean over tokens is a mean over other things.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side and to several multiples, shrunk to the smallest
    failure.  Where each row has one label, padding has none.

    How to fix: ``label_pad_token_id=-100``, or ``labels[attention_mask == 0] = -100``.

    Known false alarms: none known.

    References: huggingface/transformers#32832; ``ignore_index`` of
    ``torch.nn.CrossEntropyLoss`` is -100.
    """
    if not objective_of(pipeline).known:
        # ELECTRA's own loss leaves out what the mask hides, whatever its label is.
        raise Skip("which labels this loss counts is not known: loss.padding_is_not_predicted asks")
    collating = Collating(pipeline, batch, packing=True)
    column = label_column(collating)

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None
        for one in _labelled(collating, rows, made, column):
            counted = [label for label in one.padding if label != IGNORED]
            if counted:
                return (
                    f"row {one.i} has {len(one.padding)} positions of padding, "
                    f"{len(counted)} of them with a label ({counted[0]})"
                )
        return None

    objection = collating.objection(wrong) if _per_token(pipeline) else None
    if objection:
        yield Finding(
            f"the loss counts padding: {objection}",
            cause="labels are padded with an ordinary id instead of -100",
            fix="label_pad_token_id=-100, or labels[attention_mask == 0] = -100",
            repairs=(repair("labels[attention_mask == 0] = -100", "padding_unlabelled"),),
        )
    labels = [
        label
        for micro in batch
        for rows, made in collating.parts(micro)
        if _per_token(pipeline) and "labels" in made
        for one in _labelled(collating, rows, made, column)
        for label in one.padding
    ]
    counted = sum(label != IGNORED for label in labels)
    padding = sum(micro.inputs[IDS].numel() for micro in batch) - sum(batch.lengths)
    yield Measured(
        f"the first step has {padding} positions of padding, {counted} of these with a label that "
        f"the loss counts{collating.tried()}",
        counted,
        0,
    )
