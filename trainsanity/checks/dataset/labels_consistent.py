"""TS208 dataset.labels_consistent."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks._splits import rows_finding
from trainsanity.engine.registry import check
from trainsanity.fields import NUMBERS
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.data.scan_repeats import Repeats
from trainsanity.types import Finding, Measured, Severity

FAIR = 0.2
"""Cohen's kappa from which on people agree, if only fairly: Landis and Koch 1977."""


@check(
    "TS208",
    "dataset.labels_consistent",
    needs=("train_dataset",),
    rules_out="labels",
)
def labels_consistent(scan: Scan, repeats: Repeats) -> Iterator[Measured | Finding]:
    """Equal texts have equal labels.

    What it checks: rows of the training data with the same ids, padding aside, and different
    labels.

    Why it matters: no model can be right on both.  The rows put a floor under the loss and a
    ceiling over the accuracy, and usually mark a join that went wrong, or two annotators.

    How it is measured: exact up to equal 128-bit hashes, of ids and of what the model is given
    beside them, as a picture.  The count is the fewest rows that any function of the ids must get
    wrong: for each text, the rows beside its most frequent label.  A failure if they are more than
    a quarter, and agree no more than labels dealt out at random would: Cohen's kappa of rows with
    the same ids is below 0.2.  Fewer are a warning, and so are labels that agree better: people
    read a text in several ways, or a teacher's labels are drawn by their likelihood, and all
    answers are kept on purpose.  So are rows of numbers, since a table
    of few categories has equal rows that are others, and labels that are fractions: ratings and
    prices of one thing differ.

    How to fix: look at the rows named; decide for a label, or drop both.

    Known false alarms: several labels of a text in a row each.  Lists of labels, as of several
    labels or of tokens, are not compared.

    References: Northcutt et al. 2021, "Pervasive Label Errors in Test Sets".
    """
    train = scan.train
    if repeats.first_contradiction is not None and train.labels is not None:
        later, earlier = repeats.first_contradiction
        codes, values = train.labels.codes, train.labels.values
        assert codes is not None  # lists of labels are not compared
        by_nature = train.content.role == NUMBERS or train.labels.kind == "float"
        # Beside each of them stands one of the most frequent label at least.
        most = 4 * repeats.contradictions > len(train.rows) and repeats.agreement < FAIR
        first, second = (values[codes[k]] if codes[k] >= 0 else None for k in (earlier, later))
        yield rows_finding(
            train,
            repeats.contradictions,
            later,
            f"have the {train.word} of another and a different label: rows "
            f"{train.rows.number(earlier)} ({first}) and {train.rows.number(later)} ({second})",
            cause="equal rows that are others by nature, or measurements of one thing"
            if by_nature
            else "a join that went wrong, or two opinions on one text",
            fix="decide for one label, or drop both rows",
            severity=Severity.FAILURE if most and not by_nature else Severity.WARNING,
        )
    yield Measured(
        f"{repeats.contradictions:,} of {train.counted} have the {train.word} of another row and a "
        "different label",
        repeats.contradictions,
        0,
    )
