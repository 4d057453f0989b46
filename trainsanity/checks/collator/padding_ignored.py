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
from trainsanity.measurements.batches.whose_loss import own_loss
from trainsanity.measurements.data.known_tokens import flat
from trainsanity.objectives.base import IGNORED, UNKNOWN
from trainsanity.pipeline import of_transformers
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS306",
    "collator.padding_ignored",
    needs=("data_collator",),
    requires=("collator.rows_recovered",),
    follows=("collator.labels_aligned",),
    rules_out="loss on padding",
)
def padding_ignored(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Padding is left out of the loss.

    What it checks: that ``labels`` is -100 at every position of padding.

    Why it matters: a model that is taught to predict padding learns an easy task besides its own:
    the loss falls, and every mean over tokens is a mean over other things.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts, padded on either side and to several multiples, shrunk to the smallest
    failure.  Where each row has one label, padding has none.  Inputs that are no token ids, sounds
    or pictures, have targets of their own length: there it is what the collator writes beside a
    row's own labels in the first step's batches, judged where a model of transformers computes the
    loss, which ignores -100, or every negative label under CTC.

    How to fix: ``label_pad_token_id=-100``, or ``labels[attention_mask == 0] = -100``.

    Known false alarms: none known.

    References: huggingface/transformers#32832, huggingface/transformers#10145; ``ignore_index`` of
    ``torch.nn.CrossEntropyLoss`` is -100.
    """
    if not all(micro.of_tokens for micro in batch):
        yield from _of_targets(pipeline, batch)
        return
    if objective_of(pipeline).name == UNKNOWN:
        # ELECTRA's own loss leaves out what the mask hides, whatever its label is.
        raise Skip("which labels this loss counts is not known: loss.padding_is_not_predicted asks")
    if pipeline.config is None and not _per_token(pipeline):
        raise Skip("each row has one label: padding has none")
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


def _of_targets(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Judge targets beside other inputs than ids: they have a length and a padding of their own."""
    if own_loss(pipeline) or not of_transformers(pipeline.model):
        raise Skip("the loss is the user's own, and may ignore another label than -100")
    padding: list[int] = []
    example = ""
    for micro in batch:
        labels = micro.inputs.get("labels")
        if labels is None or labels.dim() != 2 or labels.is_floating_point():
            continue
        for number, (row, made) in enumerate(zip(micro.sources, labels.tolist(), strict=False)):
            column = pipeline.label_column(row)
            own = flat(row[column]) if column is not None else []
            outside = _outside(own, made)
            padding += outside
            if not example and any(label >= 0 for label in outside):
                example = f"row {number} has {len(own)} labels, and the batch {outside} beside them"
    if not padding:
        raise Skip("no row of the first step has targets that are padded")
    counted = sum(label >= 0 for label in padding)
    if counted:
        yield Finding(
            f"the loss counts padding: {example}",
            observed=counted,
            expected=0,
            cause="labels are padded with an ordinary id instead of -100",
            fix="pad the labels with -100",
        )
    yield Measured(
        f"targets of the first step have {len(padding)} positions of padding, {counted} of these "
        "with a label that the loss counts",
        counted,
        0,
    )


def _outside(own: list[int], made: list[int]) -> list[int]:
    """Return a batch's labels beside a row's own, on the side where these are not."""
    size = len(own)
    if not own or size >= len(made):
        return []
    if made[:size] == own:
        return made[size:]
    return made[:-size] if made[-size:] == own else []
