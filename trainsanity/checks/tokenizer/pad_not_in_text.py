"""TS106 tokenizer.pad_not_in_text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.checks.tokenizer._collated_ids import Collated, collated_ids
from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.shared_pad import SharedPad
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS106",
    "tokenizer.pad_not_in_text",
    needs=("tokenizer", "train_dataset"),
    requires=("tokenizer.pad_is_not_eos",),
    rules_out="PAD / EOS",
)
def pad_not_in_text(
    pipeline: Pipeline, scan: Scan, shared_pad: SharedPad
) -> Iterator[Measured | Finding]:
    """No text contains PAD.

    What it checks: PAD at attended places of the rows, for training and evaluation; of rows of
    texts, which collator or loss tokenizes, those of a micro-batch.

    Why it matters: a head that reads a text at its last token that is not PAD reads another token
    where the text ends with PAD, and language-model collators take the label away from every PAD,
    inside a text too.

    How it is measured: exact.  Attended is what the row's own mask says; without a mask, all but a
    run of PAD at an end of the row.

    How to fix: keep the token out of the texts (``tokenizer(..., split_special_tokens=True)`` for
    texts that spell it out), or make another, unused token PAD.

    Known false alarms: a checkpoint whose separator between documents is its PAD, trained on packed
    rows.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    try:
        scan.train.require_tokens()
    except Skip:
        if not (texts := collated_ids(pipeline, scan)):
            raise
        yield from _of_batch(pipeline, texts)
        return
    if not scan.train.content.plain:
        scan.train.require_one_sequence()  # the collator that joins them knows what it pads
    pad = pipeline.tokenizer.pad_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    if shared_pad.told_apart:
        raise Skip("PAD is EOS, and the collator tells the ends of texts from padding")
    for split in scan.splits:
        found = split.special[pad]
        if found.first_row is not None:
            yield rows_finding(
                split,
                found.rows,
                found.first_row,
                f"contain PAD ({pipeline.tokenizer.pad_token!r}, id {pad}) in their text, "
                f"{found.trailing:,} of them at the end; the first is {split.row(found.first_row)}",
                observed=found.total,
                cause="the texts spell the token out, or it was added to them as a separator",
                fix="keep it out of the texts, or give PAD to a token that no text contains",
            )
    rows = [split.special[pad].rows for split in scan.splits]
    total = sum(split.special[pad].total for split in scan.splits)
    yield Measured(f"rows with PAD {pad} in their text: {tally(scan.splits, rows)}", total, 0)


def _of_batch(pipeline: Pipeline, texts: list[Collated]) -> Iterator[Measured | Finding]:
    """Look for PAD where the mask shows a text of a micro-batch."""
    pad = pipeline.tokenizer.pad_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    holding = [text for text in texts if pad in text.ids]
    if holding:
        yield Finding(
            f"{len(holding)} of {len(texts)} texts of a micro-batch contain PAD "
            f"({pipeline.tokenizer.pad_token!r}, id {pad}) where the mask shows them",
            observed=sum(text.ids.count(pad) for text in holding),
            expected=0,
            where=f"{holding[0].name}, row {holding[0].row}",
            cause="the texts spell the token out, or it was added to them as a separator",
            fix="keep it out of the texts, or give PAD to a token that no text contains",
        )
    yield Measured(
        f"{len(holding)} of {len(texts)} texts of a micro-batch have PAD {pad} where the mask "
        "shows them",
        len(holding),
        0,
    )
