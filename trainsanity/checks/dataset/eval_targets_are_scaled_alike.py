"""TS269 dataset.eval_targets_are_scaled_alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan import Split

ROWS = 8
"""Rows of which a mean and a deviation are taken at the least."""

STANDARD = 0.05
"""How far mean and deviation may be from 0 and 1 for targets to be called standardised: rows that
were filtered afterwards, or a deviation that divides by n - 1 and few rows, move them by less."""

FAR = 3.0
"""Deviations: targets of one population do not have their mean, or their own deviation, there.
Chosen: of prices that doubled over the years neither comes near it."""


@dataclass(frozen=True)
class Spread:
    """Mean and deviation of one split's targets."""

    rows: int
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
    3 or below a third, are of another scale.

    How to fix: transform the targets of all rows by the statistics of the training rows::

        # bad
        train["y"] = (train["y"] - mean) / deviation
        # good
        train["y"], held["y"] = ((y - mean) / deviation for y in (train["y"], held["y"]))

    Known false alarms: an evaluation set of another population on purpose.

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
        if abs(found.mean) > FAR or not 1 / FAR <= found.deviation <= FAR:
            yield Finding(
                f"the targets of {split.name} have a mean of {found.mean:.4g} and a deviation of "
                f"{found.deviation:.4g}, those of training {train.mean:.2g} and "
                f"{train.deviation:.4g}",
                observed={"mean": found.mean, "deviation": found.deviation},
                expected={"mean": 0, "deviation": 1},
                where=split.name,
                cause="the training targets were standardised, and the evaluation's were not",
                fix="transform them by the training targets' mean and deviation, and undo it in "
                "compute_metrics",
            )
    yield Measured(
        f"targets of {len(told)} evaluation sets beside those of training: {'; '.join(told)}",
        len(told),
    )


def _spread(split: Split) -> Spread | None:
    labels = split.labels
    if labels is None or labels.is_list or labels.kind != "float" or labels.source is None:
        return None
    from pyarrow import compute

    values = compute.drop_null(labels.source.cast("float64"))
    mean, wide = compute.mean(values).as_py(), compute.stddev(values).as_py()
    if len(values) < ROWS or not math.isfinite(mean) or not math.isfinite(wide):
        return None
    return Spread(len(values), mean, wide)
