"""TS213 dataset.kl_rows_differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.data.pairs import PAIRS, batches_of, sides_of
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS213",
    "dataset.kl_rows_differ",
    needs=("train_dataset", "data_collator"),
    rules_out="KL of a row's own answer",
)
def kl_rows_differ(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """KTO's KL term is estimated with answers of other rows.

    What it checks: for each row of up to 256, the prompt with the answer of its KL term against the
    prompt with its own answer.

    Why it matters: KTO subtracts an estimate of the KL divergence from every implicit reward. It is
    made of prompts with unrelated answers. Where the answer is the row's own, the estimate is the
    reward itself, and what is trained is their difference.

    How it is measured: exact comparison of token ids in the collated batches. Equal answers of
    different rows are expected by chance, sum over answers of n (n - 1) / (N (N - 1)); allowed are
    four standard errors more, and one row of a last batch that has no neighbour.

    How to fix: bad: row["KL_completion_ids"] = reversed(batch)[k], which leaves the middle of an
    odd batch where it is. Good: turn the batch by one, batch[-1:] + batch[:-1], with a batch size
    above 1.

    Known false alarms: none known.

    References: huggingface/trl#1911.
    """
    if not any(
        "KL" in name for name in getattr(pipeline.train_dataset, "column_names", None) or ()
    ):
        raise Skip("the rows hold no answers for a KL term")
    own: list[tuple[int, ...]] = []
    other: list[tuple[int, ...]] = []
    answers: Counter[tuple[int, ...]] = Counter()
    for batch in batches_of(pipeline):
        if "KL_input_ids" not in batch:
            raise Skip("the batches hold no answers for a KL term")
        mine = sides_of(batch, "input_ids", batch["input_ids"])
        theirs = sides_of(batch, "KL_input_ids", batch["KL_input_ids"])
        own += [side.ids for side in mine]
        other += [side.ids for side in theirs]
        answers.update(side.counted or side.ids for side in mine)
        if len(own) >= PAIRS:
            break
    count = len(own)
    if count < 2:
        raise Skip("there are too few rows to compare")
    same = [k for k in range(count) if own[k] == other[k]]
    chance = sum(n * (n - 1) for n in answers.values()) / (count * (count - 1))
    allowed = count * chance + STANDARD_ERRORS * math.sqrt(count * chance * (1 - chance)) + 1
    if len(same) > allowed:
        yield Finding(
            f"in {len(same)} of {count} rows the KL term is estimated with the row's own answer; "
            f"by chance it would be {count * chance:.1f}",
            observed=len(same),
            expected=count * chance,
            where=f"row {same[0]}",
            cause="the answers were not exchanged between rows, or a row was paired with itself",
            fix="turn the completions of each batch by one row, with a batch size above 1",
        )
    yield Measured(
        f"in {len(same)} of {count} rows the KL term has the row's own answer, by chance it would "
        f"be {count * chance:.1f}",
        len(same),
        count * chance,
    )
