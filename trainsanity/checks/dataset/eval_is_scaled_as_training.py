"""TS257 dataset.eval_is_scaled_as_training."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.own_scale import OwnScale
from trainsanity.types import Finding, Measured

ROUNDING = 1e-5
"""What float32 leaves of a mean of 0 and a deviation of 1. By another's scale the mean of n rows is
off by about 1 / sqrt(n): 2e-3 for the most rows that are looked at."""


@check(
    "TS257",
    "dataset.eval_is_scaled_as_training",
    needs=("train_dataset",),
    rules_out="scales of the evaluation data",
)
def eval_is_scaled_as_training(own_scales: list[OwnScale]) -> Iterator[Measured | Finding]:
    """Columns of evaluation data are not standardised by their own mean and deviation.

    What it checks: mean and deviation of each column of measured numbers in the evaluation data.

    Why it matters: a scaler that is fitted again on held-out rows hides how they differ from the
    training data: amounts that are twice as high look the same. The score is that of another task,
    and a single row of tomorrow cannot be scaled so at all.

    How it is measured: means of 0 and deviations of 1 in all columns, within 1e-5. By the training
    data's scale a mean is off by about one in the root of the number of rows, so that this is no
    chance. Columns with fewer than ten values are categories and are left out.

    How to fix: fit on training rows, and only transform the others::

        # bad
        held = scaler.fit_transform(held)
        # good
        held = scaler.transform(held)

    Known false alarms: data whose every part is standardised by itself on purpose, such as the
    measurements of one device each.

    References: scikit-learn/scikit-learn#5800.
    """
    own = [one for one in own_scales if max(one.mean, one.deviation) <= ROUNDING and not one.same]
    for one in own:
        yield Finding(
            f"all {one.columns} columns of {one.rows:,} rows in {one.split} have a mean of 0 and a "
            "deviation of 1: they were standardised by their own statistics",
            observed={"mean": one.mean, "deviation": one.deviation},
            expected="the training data's scale, by which they are a little off",
            where=one.split,
            cause="fit_transform, or a normalisation of its own, for the evaluation data",
            fix="fit the scaler on the training data, and transform the evaluation data by it",
        )
    told = "; ".join(
        f"{one.split}: {one.columns} columns, means up to {one.mean:.2g} from 0, deviations up to "
        f"{one.deviation:.2g} from 1"
        for one in own_scales
    )
    yield Measured(f"numbers of the evaluation data: {told}", len(own), 0)
