"""TS263 dataset.eval_begins_as_training."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.beginnings import Beginning
from trainsanity.types import Finding, Measured, Severity, Skip

FEWEST = 8
"""Rows of a dataset from which on what all of them begin with is no chance."""

GO_ON = 4
"""Different tokens behind what is shared, at the least: rows that differ in more than their end."""

MOSTLY = 0.8
"""Share of rows that go on as those of the other dataset do. Chosen: words that are first in a few
rows only need not occur in both."""


@check(
    "TS263",
    "dataset.eval_begins_as_training",
    needs=("train_dataset",),
    rules_out="instructions in front of the rows",
)
def eval_begins_as_training(beginnings: list[Beginning]) -> Iterator[Measured | Finding]:
    """Evaluation rows have the instruction in front that training rows have.

    What it checks: what all training rows begin with, and all rows of an evaluation set, beside the
    tokens that frame every text.

    Why it matters: T5 is told its task by what stands in front of the text. A model that was
    trained with ``summarize:`` and is evaluated without it, or the other way round, is asked
    something that it was not taught, and its score says so of no row in particular.

    How it is measured: exact, on up to 512 rows of each. A failure where all rows of one begin with
    the same tokens, no row of the other begins so, and rows go on behind it as the other's begin:
    the same texts but for the instruction. A warning where the other has an instruction of its own,
    or another evaluation set begins as the training data does.

    How to fix: prepare all rows by one function::

        # bad
        train = train.map(lambda row: tokenize("summarize: " + row["text"]))
        held_out = held_out.map(lambda row: tokenize(row["text"]))
        # good
        train, held_out = train.map(prepare), held_out.map(prepare)

    Known false alarms: an evaluation that is to show what the model does without its instruction,
    where it is the only one.

    References: huggingface/transformers#10733.
    """
    train, *others = beginnings
    if train.rows < FEWEST or all(one.rows < FEWEST for one in others):
        raise Skip(f"fewer than {FEWEST} rows: what they begin with may be chance")
    same = [one for one in others if one.shared == train.shared]
    apart = [one for one in others if one.rows >= FEWEST and _apart(train, one)]
    for one in apart:
        yield _finding(train, one, elsewhere=bool(same))
    told = "; ".join(f"{one.split}: {len(one.shared)}" for one in beginnings)
    yield Measured(
        f"tokens that all rows begin with, behind what frames a text: {told}",
        [len(one.shared) for one in beginnings],
        None,
    )


def _apart(train: Beginning, other: Beginning) -> bool:
    """Return whether the two begin otherwise and go on alike."""
    if train.shared == other.shared or not (train.shared or other.shared):
        return False
    # What one begins with is the first of no row of the other.
    for one, against in ((train, other), (other, train)):
        if one.shared and against.firsts[one.shared[0]]:
            return False
    if min(len(train.nexts), len(other.nexts)) < GO_ON:
        return False
    common = sum(count for token, count in other.nexts.items() if token in train.nexts)
    return common >= MOSTLY * other.nexts.total()


def _finding(train: Beginning, other: Beginning, *, elsewhere: bool) -> Finding:
    has, lacks = (train, other) if train.shared else (other, train)
    both = bool(train.shared and other.shared)
    rest = (
        f"all of {lacks.rows} in {lacks.split} with {lacks.words!r}"
        if both
        else f"none of {lacks.rows} in {lacks.split} does"
    )
    return Finding(
        f"all of {has.rows} rows in {has.split} begin with {has.words!r}, and {rest}",
        observed=other.words,
        expected=train.words,
        where=other.split,
        cause="the two were prepared with different instructions, and go on alike"
        if both
        else "the instruction is put in front of the rows of one dataset alone; they go on alike",
        fix="prepare all rows by one function",
        severity=Severity.WARNING if both or elsewhere else Severity.FAILURE,
    )
