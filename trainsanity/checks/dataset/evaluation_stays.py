"""TS241 dataset.evaluation_stays."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.fields import AUDIO, PIXELS, role_of
from trainsanity.measurements.data.reread import HELD_OUT, Reread, changing
from trainsanity.types import Finding, Measured, Severity, Skip


@check(
    "TS241",
    "dataset.evaluation_stays",
    needs=("trainer",),
    rules_out="an evaluation that draws its rows anew",
)
def evaluation_stays(reread: Reread) -> Iterator[Measured | Finding]:
    """A row of the evaluation data is the same each time it is read.

    What it checks: the first rows of the evaluation data, each read twice.

    Why it matters: with augmentation in the evaluation data each evaluation sees other inputs, and
    mostly harder ones than what is predicted later. Which checkpoint is best is chance in part.

    How it is measured: exact, on the numbers of up to 8 rows. Pixels and sounds that change are a
    failure, other columns (masks, noise, ids of a text that is drawn) a warning. Rows of a table
    without a transform cannot change.

    How to fix: give the evaluation data a dataset of its own, with a transform that draws nothing::

        # bad
        train, held_out = random_split(Pictures(transform=augment), [0.9, 0.1])
        # good
        train = Subset(Pictures(transform=augment), first)
        held_out = Subset(Pictures(transform=resize), second)

    Known false alarms: none known.

    References: udacity/deep-learning-v2-pytorch#132.
    """
    rows = [(name, row) for name, some in reread.held_out.items() for row in some]
    if not rows:
        raise Skip("there is no evaluation data with numbered rows")
    moved = [(name, row, changing(row)) for name, row in rows]
    moved = [one for one in moved if one[2]]
    if moved:
        name, _, columns = moved[0]
        perceived = [column for column in columns if role_of(column) in (PIXELS, AUDIO)]
        yield Finding(
            f"{len(moved)} of {len(rows)} rows of the evaluation data are others when they are "
            f"read again: {', '.join(perceived or columns)}",
            observed=len(moved),
            expected=0,
            where=f"{name}[0]" if moved[0][1] is rows[0][1] else name,
            cause="a random transform (augmentation) is applied to the evaluation data, too, so "
            "each evaluation sees other rows",
            fix="a dataset of its own for evaluation, with a transform that draws nothing",
            severity=Severity.FAILURE if perceived else Severity.WARNING,
        )
    yield Measured(
        f"{len(moved)} of {len(rows)} rows of the evaluation data differ between "
        f"{HELD_OUT} readings",
        len(moved),
        0,
    )
