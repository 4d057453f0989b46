"""TS267 dataset.examples_are_of_others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import Documents, in_training_order
from trainsanity.types import Finding, Measured, Skip

ASKED = 8
"""Tokens before an answer that have to stand before its earlier occurrence, too: a header and the
end of a turn have fewer, and the end of a question that is repeated has them."""

HALF = 0.5
"""Share of rows from which on the answer can be copied in most.  A definition."""


@check("TS267", "dataset.examples_are_of_others", rules_out="answers in their own prompts")
def examples_are_of_others(documents: Documents) -> Iterator[Measured | Finding]:
    """The prompt of a row does not hold the row's own question with its answer.

    What it checks: of language models, whether what ends a row, its answer and the eight tokens
    before it, stands earlier in the same row.

    Why it matters: examples that are looked up among the training rows find the row itself first.
    Its answer stands in its prompt, the model learns to copy it, and where it is used the prompt
    holds no such thing.

    How it is measured: exact, on the tokens of a few batches. An answer that repeats something of
    its prompt is none: the end of the question has to stand before it in both places. A failure
    where half of the rows are so.

    How to fix: leave the row itself out when its examples are looked up::

        # bad
        examples = index.search(row["question"], k=2)
        # good
        examples = [one for one in index.search(row["question"], k=3) if one["id"] != row["id"]][:2]

    Known false alarms: none known.

    References: google-research/FLAN#19.
    """
    if documents.shifted:
        raise Skip("the labels are those of the next place already")
    asked = [one for one in documents.found if one.counted and one.counted[0] > ASKED]
    if not asked:
        raise Skip("no row has a prompt of some length before its targets")
    found = [one for one in asked if _again(one.ids, one.counted)]
    if len(found) >= max(1, HALF * len(asked)):
        yield Finding(
            f"the prompts of {len(found)} of {len(asked)} rows hold the row's own question and its "
            "answer",
            observed=len(found),
            expected=0,
            where=in_training_order(found[0].row),
            cause="examples are looked up among all rows, and the nearest one is the row itself",
            fix="leave the row itself out of its examples",
        )
    yield Measured(
        f"{len(found)} of {len(asked)} rows hold what they end with, and the {ASKED} tokens before "
        "it, twice",
        len(found),
        0,
    )


def _again(ids: Sequence[int], counted: Sequence[int]) -> bool:
    """Return whether the first run of targets stands earlier behind the same tokens."""
    start = counted[0]
    stop = next((k for k, t in enumerate(counted) if t != start + k), len(counted)) + start
    sought = list(ids[start - ASKED : stop])
    # The end of the row's text may be another token than the end of the example.
    sought = sought[:-1] if len(sought) > ASKED + 1 else sought
    size = len(sought)
    return any(
        ids[k] == sought[0] and list(ids[k : k + size]) == sought
        for k in range(start - ASKED - size + 1)
    )
