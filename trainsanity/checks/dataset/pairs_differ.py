"""TS212 dataset.pairs_differ."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.pairs import Pairs
from trainsanity.types import Finding, Measured, Severity

SHARE = 0.1
"""Share of the pairs: a constant, since no formula says how many a run can spare.  Published
preference data have few equal pairs; if a tenth of the batch has no gradient, a setting did it."""


@check(
    "TS212",
    "dataset.pairs_differ",
    needs=("train_dataset", "data_collator"),
    rules_out="identical pairs",
)
def pairs_differ(pairs: Pairs) -> Iterator[Measured | Finding]:
    """The chosen and the rejected side of each pair differ in the batch.

    What it checks: the token ids of both sides of up to 256 pairs, as they stand in the batches
    that the collator makes, after tokenization, truncation and padding; and whether anything of the
    answers is left that the loss counts.

    Why it matters: a pair of twice the same tokens has a loss of log 2 whatever the weights are,
    and a gradient of zero. max_length or max_prompt_length that cuts the answers off makes such
    pairs of good rows, and the loss curve just lies at 0.69.

    How it is measured: exact comparison of ids without padding, and of the tokens that
    completion_mask or labels count. A tenth of the pairs or more is a failure, fewer a warning.

    How to fix: bad: DPOConfig(max_length=256) for prompts of 300 tokens. Good: a max_length above
    the longest row, or truncation_mode="keep_end", or leave rows out that are longer:

        dataset = dataset.filter(lambda row: len(row["prompt_ids"]) + 64 < max_length)
        dataset = dataset.filter(lambda row: row["chosen"] != row["rejected"])

    Known false alarms: none known.

    References: OpenRLHF/OpenRLHF#1311, Yifan-Song793/ETO#14.
    """
    count = len(pairs.both)
    empty = [
        k
        for k, (chosen, rejected) in enumerate(pairs.both)
        if chosen.counted is not None and not (chosen.counted and rejected.counted)
    ]
    equal = [
        k
        for k, (chosen, rejected) in enumerate(pairs.both)
        if chosen.ids == rejected.ids and k not in set(empty)
    ]
    longest = max((len(side.ids) for sides in pairs.both for side in sides), default=0)
    for found, words in (
        (equal, "hold the same tokens in chosen and rejected: identical pairs have no gradient"),
        (empty, "have nothing left of an answer that the loss counts: it was cut away"),
    ):
        if not found:
            continue
        few = len(found) < SHARE * count
        unlike = pairs.equal_rows is not None and pairs.equal_rows < len(found)
        # Truncation ends them where the longest side ends; what is shorter was made alike before.
        cut = unlike and all(len(pairs.both[k][0].ids) >= longest for k in found)
        cause, fix = _explain(cut=cut or found is empty, unlike=unlike)
        yield Finding(
            f"{len(found)} of {count} pairs {words}",
            observed=len(found),
            expected=0,
            where=f"pair {found[0]}",
            cause=cause,
            fix=fix,
            severity=Severity.WARNING if few else Severity.FAILURE,
        )
    yield Measured(
        f"of {count} pairs {len(equal)} are the same tokens twice, {len(empty)} have an answer "
        "of no counted token",
        len(equal) + len(empty),
        0,
    )


def _explain(*, cut: bool, unlike: bool) -> tuple[str, str]:
    """Return cause and fix, by whether answers are cut, and differ before they are tokenized."""
    if cut:
        return (
            "the answers are cut off by truncation (max_length) before they begin to differ",
            "raise max_length above the longest prompt with its answer, or leave out the rows "
            "that are longer",
        )
    if unlike:
        return (
            "the texts of these pairs differ, and their tokens do not: both sides were tokenized "
            "from one of them",
            "look at what makes chosen_ids and rejected_ids of these rows",
        )
    return (
        "the rows hold the same answer twice",
        "leave out rows whose chosen and rejected are equal",
    )
