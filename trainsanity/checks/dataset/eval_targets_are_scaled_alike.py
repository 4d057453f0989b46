"""TS269 dataset.eval_targets_are_scaled_alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.chance import ONCE_IN_A_THOUSAND, chance_of_gap
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split
    from trainsanity.measurements.data.scan_rows import Array

ROWS = 8
"""Rows of which a mean and a deviation are taken at the least."""

STANDARD = 0.05
"""How far mean and deviation may be from 0 and 1 for targets to be called standardised: rows that
were filtered afterwards, or a deviation that divides by n - 1 and few rows, move them by less."""

FAR = 3.0
"""Deviations: targets of one population do not have their mean, or their own deviation, there.
Chosen: of prices that doubled over the years neither comes near it."""

BEYOND = 1.0
"""Deviations of the training targets, by which most of another scale lie outside of their range. A
later time goes on where they end."""


@dataclass(frozen=True)
class Spread:
    """The targets of one split, sorted, with their mean and deviation."""

    values: Array
    mean: float
    deviation: float


@check(
    "TS269",
    "dataset.eval_targets_are_scaled_alike",
    needs=("train_dataset", "eval_dataset"),
    rules_out="scales of targets",
)
def eval_targets_are_scaled_alike(scan: Scan) -> Iterator[Measured | Finding]:
    """Targets of a regression are scaled in evaluation rows as in training rows.

    What it checks: mean and deviation of the evaluation data's targets, where those of the training
    data are standardised.

    Why it matters: the model learns numbers around 0, and is compared with prices. The evaluation's
    loss is hundreds of times that of training, never falls, and picks a checkpoint by chance.

    How it is measured: training targets are standardised if their mean is 0 and their deviation 1,
    within 0.05. Evaluation targets whose mean is further from 0 than 3, or whose deviation is above
    3 or below a third, are of another scale, unless their ranks among the training targets are what
    a draw of these would have (Kolmogorov and Smirnov, one in a thousand): few of a population with
    rare large values have none. A failure where half of them lie outside of the range of the
    training targets, by a deviation and more; else a warning, since they may be of one group, of a
    later time, or of one kind.

    How to fix: transform the targets of all rows by the statistics of the training rows::

        # bad
        train["y"] = (train["y"] - mean) / deviation
        # good
        train["y"], held["y"] = ((y - mean) / deviation for y in (train["y"], held["y"]))

    Known false alarms: an evaluation set far outside of what is trained on, on purpose.

    References: chemprop/chemprop#512.
    """
    train = _spread(scan.train)
    if train is None or abs(train.mean) > STANDARD or abs(train.deviation - 1) > STANDARD:
        raise Skip("the training targets are not numbers with a mean of 0 and a deviation of 1")
    told = []
    for split in scan.evals:
        found = _spread(split)
        if found is None:
            continue
        told.append(f"{split.name}: mean {found.mean:.4g}, deviation {found.deviation:.4g}")
        apart = abs(found.mean) > FAR or not 1 / FAR <= found.deviation <= FAR
        if apart and chance_of_gap(train.values, found.values) < ONCE_IN_A_THOUSAND:
            outside = _outside(train.values, found.values)
            yield Finding(
                f"the targets of {split.name} have a mean of {found.mean:.4g} and a deviation of "
                f"{found.deviation:.4g}, those of training {train.mean:.2g} and "
                f"{train.deviation:.4g}",
                observed={"mean": found.mean, "deviation": found.deviation},
                expected={"mean": 0, "deviation": 1},
                where=split.name,
                cause="the training targets were standardised, and the evaluation's were not"
                if outside
                else "they are of one group, a later time or one kind, or were not standardised",
                fix="transform them by the training targets' mean and deviation, and undo it in "
                "compute_metrics" + ("" if outside else "; nothing, if they were"),
                severity=Severity.FAILURE if outside else Severity.WARNING,
            )
    yield Measured(
        f"targets of {len(told)} evaluation sets beside those of training: {'; '.join(told)}",
        len(told),
    )


def _spread(split: Split) -> Spread | None:
    labels = split.labels
    if labels is None or labels.is_list or labels.kind != "float" or labels.source is None:
        return None
    import numpy
    from pyarrow import compute

    kept = compute.drop_null(labels.source.cast("float64"))
    values = numpy.sort(numpy.asarray(kept))
    if len(values) < ROWS or not numpy.isfinite(values).all():
        return None
    return Spread(values, float(values.mean()), float(values.std()))


def _outside(train: Array, held: Array) -> bool:
    """Return whether half of the held values lie beyond those of training by a deviation."""
    beyond = (held < train[0] - BEYOND) | (held > train[-1] + BEYOND)
    return bool(2 * beyond.sum() >= len(held))
