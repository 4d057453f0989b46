"""TS211 dataset.rows_not_truncated."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.truncation import Truncation
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of rows that may be cut without a word.  Chosen: cutting a long tail is usual, and beyond
it the median text is cut."""


@check(
    "TS211",
    "dataset.rows_not_truncated",
    needs=("train_dataset",),
    requires=("tokenizer.truncation_spares_ends",),
    rules_out="truncation",
)
def rows_not_truncated(scan: Scan, truncation: Truncation) -> Iterator[Measured | Finding]:
    """Most training rows keep their whole text.

    What it checks: the share of training rows that have the greatest length and whose text goes on
    after it.

    Why it matters: a ``max_length`` that is left from a trial cuts every text, and nothing warns
    while it tokenizes.  What decides the label, or the answer that is to be learnt, may stand
    behind the cut.

    It is a warning: some people cut on purpose, since the beginning of a text is often enough.

    How it is measured: where a column holds the text of the rows, 32 rows of the greatest length,
    evenly spaced, are tokenized again, and those count that are a piece of a longer text.  Texts
    that several rows in a row share (windows over a document) are not lost.  Where no column holds
    the text, all rows of the greatest length count if something shows that they were cut: the
    tokenizer is still set to truncate there; or each row is one text (it has a label of its own, or
    begins with BOS or CLS and has no second one) and that length is a ``max_length`` of tokenizer
    or arguments, or the other rows have 8 or more different lengths.  Blocks of grouped or packed
    text have one length, too; they have none of these marks.  More than half is a warning; the half
    and the 8 are chosen.

    How to fix: raise ``max_length``, or split long texts
    (``return_overflowing_tokens=True, stride=...``).

    Known false alarms: without their text, windows over long documents that do not overlap.  Rows
    without text, marks and settings are not judged: a green then says nothing.

    References: huggingface/transformers#30998, huggingface/trl#3449.
    """
    found, train = truncation, scan.train
    if found.share > MOST:
        left = f"; they hold {found.kept:.0%} of their texts' tokens" if found.probed else ""
        yield Finding(
            f"{found.share:.0%} of {train.counted} in {train.name} are cut at {found.longest} "
            f"tokens{left}",
            observed=round(found.share, 4),
            expected=f"at most {MOST}",
            where=train.row(int((train.lengths == found.longest).argmax())),
            cause=f"they were tokenized with a maximal length of {found.longest}, and most texts "
            "are longer",
            fix="raise max_length, or split long texts into several rows",
            severity=Severity.WARNING,
        )
    if found.probed:
        evidence = f"{found.cut} of {found.probed} of these, tokenized again, are cut"
    else:
        evidence = found.evidence or "no text or setting shows whether these are cut"
    yield Measured(
        f"{found.capped:,} of {train.counted} have the greatest length, {found.longest}; "
        f"{evidence}",
        round(found.share, 4),
        f"at most {MOST}",
    )
