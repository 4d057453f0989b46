"""Metrics that count earlier evaluations on, and metrics under each other's names."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

from trainsanity.measurements.runs.repeated import Repeated
from trainsanity.types import Finding

PRECISION, RECALL = re.compile(r"precision"), re.compile(r"recall")


def number(value: Any) -> float | None:
    """Return a metric as a finite number; None if it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def close(one: float, other: float) -> bool:
    """Return whether two metrics are equal up to rounding."""
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def counted_on(repeated: Repeated, wrong: dict[str, Any], names: list[str]) -> Iterator[Finding]:
    """Yield the first metric that the same predictions move further from one time to the next.

    Args:
        repeated: what right predictions had after wrong ones.
        wrong: metrics of wrong predictions.
        names: of the metrics.
    """
    for name in names:
        found = [number(one.get(name)) for one in (wrong, *repeated.right)]
        values = [one for one in found if one is not None]
        if len(values) != len(found) or len(values) < 3:
            continue
        steps = [b - a for a, b in itertools.pairwise(values)]
        apart = not any(close(a, b) for a, b in itertools.pairwise(values))
        one_way = all(one > 0 for one in steps) or all(one < 0 for one in steps)
        # A mean over more and more of the same comes nearer; a counter goes on.
        if apart and one_way and abs(steps[-1]) < 0.99 * abs(steps[-2]):
            shown = ", ".join(f"{one:.4g}" for one in values[1:])
            yield Finding(
                f"{name} of the same right predictions is {shown} when they are evaluated again "
                "and again after wrong ones: earlier evaluations are counted in",
                observed=values[1:],
                expected=values[1:2] * (len(values) - 1),
                where="compute_metrics",
                cause="the metric adds up what it is given, and is not reset when its value has "
                "been computed",
                fix="reset its counts where it returns its value (compute_result=True): "
                "metric.reset(), or lists that are made anew",
            )
            return


def change_places(repeated: Repeated, names: list[str]) -> Iterator[Finding]:
    """Yield a precision and a recall that are each other's, by rows that are all called class 1."""
    truth = repeated.truth
    share = sum(label == 1 for label in truth) / len(truth) if truth else 0.0
    if not 0 < share < 1:
        return
    classes = len({*truth, 1})
    # Of the one class, and over all classes: each the same, or by how many rows they have.
    right = [(share, 1.0), (share / classes, 1 / classes), (share * share, share)]
    for name in names:
        other = PRECISION.sub("recall", name)
        if not PRECISION.search(name) or other not in names:
            continue
        found = [number(repeated.always.get(one)) for one in (name, other)]
        values = [one for one in found if one is not None]
        if len(values) < 2 or close(*values):
            continue
        pair = (values[0], values[1])
        scales = [pair, (pair[0] / 100, pair[1] / 100)]
        if any(close(p, a) and close(r, b) for p, r in scales for a, b in right):
            continue
        if any(close(p, b) and close(r, a) for p, r in scales for a, b in right[:2]):
            yield Finding(
                f"where each row is called class 1, and {share:.0%} of them are, {name} is "
                f"{pair[0]:.4g} and {other} {pair[1]:.4g}: they have changed places",
                observed={name: pair[0], other: pair[1]},
                expected={name: pair[1], other: pair[0]},
                where="compute_metrics",
                cause="predictions and labels are given to the metric in the wrong order, or its "
                "values are unpacked in another one",
                fix="labels first: precision_score(y_true, y_pred)",
            )
            return
