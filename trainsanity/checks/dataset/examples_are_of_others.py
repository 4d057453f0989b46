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
    its prompt is none: the end of the question has to stand before it in both places, and all that
    is alike before both answers has to be the row's own: no other prompt may end with it, as all do
    with "Answer:", with a command out of a few, or with an observation that comes again and again.
    A failure where half of the rows are so.

    How to fix: leave the row itself out when its examples are looked up::

        # bad
        examples = index.search(row["question"], k=2)
        # good
        examples = [one for one in index.search(row["question"], k=3) if one["id"] != row["id"]][:2]

    Known false alarms: documents that hold the question with its answer on purpose, as a page of
    frequent questions does.

    References: google-research/FLAN#19.
    """
    if documents.shifted:
        raise Skip("the labels are those of the next place already")
    asked = [one for one in documents.found if one.counted and one.counted[0] > ASKED]
    if not asked:
        raise Skip("no row has a prompt of some length before its targets")
    alike = [(one, _again(one.ids, one.counted)) for one in asked]
    prompts = [(one.row, one.ids[: one.counted[0]]) for one in asked]
    found = [
        one
        for one, common in alike
        if common and not any(row != one.row and p[-len(common) :] == common for row, p in prompts)
    ]
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


def _again(ids: Sequence[int], counted: Sequence[int]) -> list[int]:
    """Return all that stands before the first run of targets, and before it earlier in the row.

    Of several places that with the longest; empty where there is none with some tokens before it.
    """
    start = counted[0]
    stop = next((k for k, t in enumerate(counted) if t != start + k), len(counted)) + start
    answer = list(ids[start:stop])
    # The end of the row's text may be another token than the end of the example.
    answer = answer[:-1] if len(answer) > 1 else answer
    longest = 0
    for k in range(ASKED, start - len(answer) + 1):
        if ids[k] != answer[0] or list(ids[k : k + len(answer)]) != answer:
            continue
        size = next((j for j in range(k) if ids[k - 1 - j] != ids[start - 1 - j]), k)
        longest = max(longest, size)
    return list(ids[start - longest : start]) if longest >= ASKED else []
