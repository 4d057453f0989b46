"""TS209 dataset.eval_is_unseen."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks._splits import rows_finding, tally
from trainsanity.engine.registry import check
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_repeats import Repeats
from trainsanity.types import Finding, Measured, Severity


@check(
    "TS209",
    "dataset.eval_is_unseen",
    needs=("train_dataset",),
    rules_out="evaluation",
)
def eval_is_unseen(scan: Scan, repeats: Repeats) -> Iterator[Measured | Finding]:
    """No evaluation row is trained on.

    What it checks: rows of the evaluation data whose ids, padding aside, are those of a training
    row. Of tables, whose rows hold numbers, rows whose label is the same, too.

    Why it matters: the score on such rows measures memory.  Early stopping and the choice of a
    checkpoint then prefer the run that overfits most.

    How it is measured: exact up to equal 128-bit hashes, every evaluation split against all
    training rows.  Rows with a picture, a sound or other numbers beside their ids are equal where
    these are equal, too.  Without evaluation data nothing can leak, and the check passes.  A
    warning where rows with the same numbers have different labels: then a table of few categories,
    or with many gaps, has equal rows by nature.  One row in both is none where its labels count
    at other places: a graph some of whose nodes are trained on and others evaluated.

    How to fix: drop duplicates first and split then; split by group where texts have near twins.

    Known false alarms: short texts that recur in life, as greetings do; an evaluation on training
    rows on purpose, to watch overfitting.

    References: Elangovan et al. 2021, "Memorization vs. Generalization".
    """
    for split in scan.evals:
        leak = repeats.leaks[split.name]
        if leak.first is not None and not leak.apart:
            place, twin = leak.first
            numbers = split.content.role == NUMBERS
            by_nature = numbers and (leak.unlike > 0 or repeats.contradictions > 0)
            yield rows_finding(
                split,
                leak.rows,
                place,
                f"are in {scan.train.name}, too: "
                f"row {split.rows.number(place)} is row {scan.train.rows.number(twin)} there",
                cause="rows with the same numbers have different labels, too: equal rows may be "
                "others by nature"
                if by_nature
                else "the data was split before duplicates were dropped, or one file is in both",
                fix="drop duplicates, then split",
                severity=Severity.WARNING if by_nature else Severity.FAILURE,
            )
    leaks = [repeats.leaks[split.name].rows for split in scan.evals]
    found = tally(scan.evals, leaks) or "there is no evaluation data"
    yield Measured(f"evaluation rows that are trained on: {found}", sum(leaks), 0)
