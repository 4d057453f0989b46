"""TS307 collator.targets_kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.checks.collator._labels import (
    Labelled,
    _labelled,
    _per_token,
    count_labelled,
    label_column,
)
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.fields import plain_values
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows, per_token
from trainsanity.objectives.base import CAUSAL_LM, IGNORED
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


KINDS = 3
"""Different tokens among those that are left out by themselves: ids that are taken for padding are
one or two."""


@check(
    "TS307",
    "collator.targets_kept",
    needs=("data_collator",),
    requires=("collator.rows_recovered", "collator.labels_aligned"),
    rules_out="EOS dropped from the loss",
)
def targets_kept(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The collator keeps every target of its rows, the end of a text included.

    What it checks: that labels which rows bring are not -100 in the batch; and that a language
    model's rows that end with EOS have a label there.

    Why it matters: a target that the collator drops is never learnt.  With PAD == EOS the usual
    collator takes each real EOS for padding, and the model never learns to stop.

    How it is measured: exact, on the first optimizer step's batches and on pieces of their rows
    that Hypothesis cuts and that keep their end, shrunk to the smallest failure.  A place that a
    mask column of the row leaves out (``completion_mask`` and the like) is not required, nor is a
    language model's first, which nothing predicts, nor EOS behind a token that is no target itself:
    the end of a user's turn.

    How to fix: a PAD that is not EOS, or ``labels[attention_mask == 0] = -100`` instead of
    ``labels[input_ids == pad] = -100``.

    A collator that takes single tokens of several kinds out of the loss, between two that are in
    it, is a warning: losses against memorizing and selections of tokens leave out some ends, too.

    Known false alarms: a collator that leaves ends alone out of the loss on purpose.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    batch.require_made()
    collating = Collating(pipeline, batch, packing=True, tokens=_per_token(pipeline))
    column = label_column(collating)
    end = getattr(pipeline.tokenizer, "eos_token_id", None)
    language = objective_of(pipeline).name == CAUSAL_LM

    def wrong(rows: Rows, made: Made) -> str | None:
        if "labels" not in made:
            return None
        if not _per_token(pipeline):
            return _dropped_rows(rows, made, column)
        found = (_dropped(one, language, end) for one in _labelled(collating, rows, made, column))
        return next(filter(None, found), None)

    objection = collating.objection(wrong)
    if objection and _picks_tokens(collating, column, end):
        yield Finding(
            f"single tokens are left out of the loss: {objection}",
            cause="the collator takes single tokens out of the loss, of many kinds, and ends of "
            "rows among them: losses against memorizing, and selections of tokens, do so",
            fix="nothing, if that is meant; keep the label of EOS, if the model is to stop",
            severity=Severity.WARNING,
        )
    elif objection:
        ends = "ends with EOS" in objection
        yield Finding(
            f"what the rows offer to learn is left out of the loss: {objection}",
            cause="PAD and EOS share an id, and the collator masks PAD by its id"
            if ends and end == getattr(pipeline.tokenizer, "pad_token_id", None)
            else "the collator overwrites labels with -100",
            fix="a PAD that is not EOS, or labels[attention_mask == 0] = -100"
            if ends
            else "overwrite labels where attention_mask is 0, and nowhere else",
            repairs=(repair("the label of each row's EOS kept", "ends_labelled"),) if ends else (),
        )
    rows = [row for micro in batch for row in micro.rows]
    ended = sum(end is not None and _ends_with(row, end) for row in rows if language)
    ends_with = f"; {ended} of {len(rows)} rows end with EOS" if language else ""
    count = count_labelled(pipeline, batch)
    yield Measured(
        f"{collating.judged()} keep their rows' targets, {count} targets are in the loss"
        f"{ends_with}{collating.tried()}",
        count,
    )


def _picks_tokens(collating: Collating, column: str | None, end: int | None) -> bool:
    """Return whether a collator takes single tokens of many kinds out of the loss.

    Both neighbours of each are targets.  What is left out by its id, as PAD, is of one kind.
    """
    kinds: set[int] = set()
    ends = holes = 0
    for micro in collating.batch:
        for rows, made in collating.parts(micro):
            if "labels" not in made or not _per_token(collating.pipeline):
                return False
            for one in _labelled(collating, rows, made, column):
                ids, kept = one.row["input_ids"], [label != IGNORED for label in one.got]
                ends += bool(kept) and not kept[-1] and ids[-1] == end
                inside = [t for t in range(2, len(kept) - 1) if kept[t - 1] and kept[t + 1]]
                left = [t for t in inside if not kept[t] and ids[t] != end]
                if one.own is not None:
                    left = [t for t in left if one.own[t] != IGNORED]
                kinds.update(int(ids[t]) for t in left)
                holes += len(left)
    return len(kinds) >= KINDS and holes >= ends


def _dropped_rows(rows: Rows, made: Made, column: str | None) -> str | None:
    if column is None or made["labels"].is_floating_point():
        return None
    for i, (row, label) in enumerate(zip(rows, made["labels"].flatten().tolist(), strict=True)):
        if label == IGNORED != plain_values(row[column]):
            return f"row {i} has the label {row[column]}, and the batch {IGNORED}"
    return None


def _dropped(one: Labelled, language: bool, end: int | None) -> str | None:
    if one.own is None and all(label == IGNORED for label in one.got):
        return None  # no response key in this piece of a row: collator.rows_have_targets' matter
    left_out = _left_out(one.row)
    for t, label in enumerate(one.got):
        if label != IGNORED or t in left_out or (language and t in one.starts):
            continue
        if one.own is not None and one.own[t] != IGNORED:
            return f"row {one.i} has the label {one.own[t]} at token {t}, and the batch {IGNORED}"
        # A turn that is left out as a whole, the user's, leaves its end out with it.
        last = t == len(one.got) - 1 and (t == 0 or one.got[t - 1] != IGNORED)
        if language and one.own is None and last and one.row["input_ids"][t] == end:
            return f"row {one.i} ends with EOS {end}, whose label is {IGNORED}"
    return None


def _left_out(row: Mapping[str, Any]) -> set[int]:
    """Tokens that a mask column of the row's own takes out of the loss, or that are padding."""
    masks = [key for key in per_token([row]) if key.endswith(("_mask", "_masks"))]
    return {t for key in masks for t, one in enumerate(row[key]) if not one}


def _ends_with(row: Mapping[str, Any], end: int) -> bool:
    places = [t for t in range(len(row["input_ids"])) if t not in _left_out(row)]
    return bool(places) and int(row["input_ids"][places[-1]]) == end
