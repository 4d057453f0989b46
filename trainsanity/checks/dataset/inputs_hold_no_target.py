"""TS255 dataset.inputs_hold_no_target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.batches.beside_targets import Beside
from trainsanity.types import Finding, Measured, Severity, Skip

ENOUGH = 4
"""Different targets from which on it is no chance that one place holds them all: of numbers with
two digits, one in a hundred million."""

SEVERAL = 16
"""Different targets from which on a straight line through all of them is no chance: with each one
beyond the second the chance falls by about the factor STRAIGHT."""

STRAIGHT = 1e-4
"""Share of the targets' deviation that may be left beside a line.  Chosen: scaling twice in float32
leaves a millionth, and what is measured in the world is noisier than this."""


@check(
    "TS255",
    "dataset.inputs_hold_no_target",
    rules_out="targets among the inputs",
)
def inputs_hold_no_target(beside_targets: list[Beside]) -> Iterator[Measured | Finding]:
    """No place of the inputs is the target itself, in every row.

    What it checks: a target that is one number a row against each number of what the model's
    forward takes of the row, by its place from the front and from the end.

    Why it matters: a window that ends with the value it is to foretell, or a table that kept the
    column of its target, is learnt within minutes and says nothing of what is to come. The error is
    wonderfully small until the model meets rows whose target nobody knows.

    How it is measured: on the batches of the first optimizer step; of a script's loop, what torch's
    loss function was given as its target beside what the model was given. A failure where one place
    of the inputs equals the target in every row, to the rounding of float32, and the rows have four
    different targets or more, which are no whole numbers all (classes, stars and counts recur). A
    warning where the target is a straight function of one of several numbers, as a column is that
    was scaled: exercises have it so on purpose.

    How to fix: look at one row; a window's target is the value after its last::

        # bad
        x, y = series[i : i + n], series[i + n - 1]
        # good
        x, y = series[i : i + n], series[i + n]

    Known false alarms: a model that is to copy a number, as exercises have it.

    References: tensorflow/tensorflow#40343.
    """
    values = [y for rows in beside_targets for y in rows.targets.tolist()]
    if len(set(values)) < ENOUGH or all(y == int(y) for y in values):
        raise Skip(f"the first step has fewer than {ENOUGH} different targets, or whole numbers")
    copied = _everywhere(beside_targets, [list(_equal(rows)) for rows in beside_targets])
    straight = [] if copied or len(set(values)) < SEVERAL else _everywhere(
        beside_targets, [list(_straight(rows)) for rows in beside_targets]
    )  # fmt: skip
    if copied:
        key, place = copied[0]
        yield Finding(
            f"the target of each of {len(values)} rows is a number of its inputs: {key}[{place}]",
            observed=values[0],
            expected="a number that the inputs do not hold",
            where=f"{key}[{place}]",
            cause="the window ends with its target, or the target's column is among the inputs",
            fix="take the target from behind the window, and its column out of the inputs",
        )
    elif straight:
        key, place = straight[0]
        yield Finding(
            f"the target of each of {len(values)} rows is a straight function of one number of its "
            f"inputs: {key}[{place}]",
            observed=values[0],
            expected="a number that the inputs do not hold",
            where=f"{key}[{place}]",
            cause="the target's column is among the inputs, scaled, or the data is made so",
            fix="take the target's column out of the inputs",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{len(values)} targets were compared with each number of their rows; {len(copied)} "
        f"places of a row are its target, and {len(straight)} a straight function of it",
        len(copied),
        0,
    )


def _everywhere(batches: list[Beside], found: list[list[tuple[str, int]]]) -> list[tuple[str, int]]:
    """Return the places that were found in all batches."""
    counts = Counter(place for one in found for place in dict.fromkeys(one))
    return [place for place, count in counts.items() if count == len(batches)]


def _equal(rows: Beside) -> Iterator[tuple[str, int]]:
    """Yield places, counted from the end of a row too (below 0), that equal all targets."""
    import torch

    for name, value in rows.inputs.items():
        target = rows.targets.to(value)[:, None]
        eps = torch.finfo(torch.promote_types(value.dtype, rows.targets.dtype)).eps
        # Coarser numbers than float32 have too few values for nearly equal ones to say anything.
        allowed = MARGIN * eps * float(target.abs().max()) if eps < STRAIGHT else 0.0
        same = ((value - target).abs() <= allowed).all(0).nonzero().flatten().tolist()
        for place in same:
            yield name, place
            yield name, place - value.shape[1]


def _straight(rows: Beside) -> Iterator[tuple[str, int]]:
    """Yield places, as above, of which all targets are a straight function."""
    if rows.places < 2:  # one number a row: that is the exercise
        return
    for name, value in rows.inputs.items():
        y = rows.targets.double().cpu()
        y = y - y.mean()
        x = value.double().cpu()
        x = x - x.mean(0)
        slopes = (x * y[:, None]).sum(0) / x.square().sum(0)
        left = (y[:, None] - x * slopes).norm(dim=0) / y.norm()
        for place in (left <= STRAIGHT).nonzero().flatten().tolist():
            yield name, place
            yield name, place - value.shape[1]
