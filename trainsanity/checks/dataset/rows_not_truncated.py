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
    or arguments, or the other rows have 8 or more different lengths, or all rows are closed by the
    tokenizer (EOS or SEP) at a length that is a multiple of 8 or 10.  Blocks of grouped or packed
    text have one length, too; they have none of these marks.  More than half is a warning; these
    numbers are chosen.

    How to fix: raise ``max_length``, or split long texts
    (``return_overflowing_tokens=True, stride=...``).

    Known false alarms: without their text column, windows over long documents that do not overlap,
    and texts whose natural length, special tokens included, is one round number.  Rows without
    text, marks and settings are not judged: the message says so.

    References: huggingface/transformers#30998, huggingface/trl#3449.
    """
    found, train = truncation, scan.train
    if found.share > MOST:
        if found.probed:
            cut = f"are cut at {found.longest} tokens"
            why = f"they hold {found.kept:.0%} of their texts' tokens"
            cause = f"the maximal length in tokenization was {found.longest}, and most texts go on"
        else:
            cut = f"have {found.longest} tokens and seem to be cut there"
            why = found.evidence
            cause = f"the maximal length in tokenization was probably {found.longest}"
        yield Finding(
            f"{found.share:.0%} of {train.counted} in {train.name} {cut}; {why}",
            observed=round(found.share, 4),
            expected=f"at most {MOST}",
            where=train.row(int((train.lengths == found.longest).argmax())),
            cause=cause,
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
