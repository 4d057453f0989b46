"""TS219 dataset.masks_are_drawn_anew."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.known_tokens import KnownTokens
from trainsanity.types import Cost, Finding, Measured, Severity


@check(
    "TS219",
    "dataset.masks_are_drawn_anew",
    cost=Cost.STATIC,
    needs=("train_dataset",),
    rules_out="masks that stay the same",
)
def masks_are_drawn_anew(known_tokens: KnownTokens) -> Iterator[Measured | Finding]:
    """Tokens are masked when a batch is made, not in the dataset.

    What it checks: rows that hold the mask token beside labels that are -100 for most tokens, and
    whether the collator makes the same labels of such a row twice.

    Why it matters: each epoch sees the same masks: 85 % of the words are never a target, however
    many epochs there are.

    How it is measured: on up to 256 rows as they are in the dataset.  More than half of them masked
    in the data is a warning: with one epoch, or many copies of each text, it is as good.

    How to fix: leave the masking to the collator::

        # bad
        rows = rows.map(mask)  # once
        # good
        DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    Known false alarms: prompts with a mask at a fixed place (cloze tasks).

    References: keras-team/keras-hub#796.
    """
    seen = known_tokens
    if 2 * seen.masked > seen.rows and seen.same_again:
        yield Finding(
            f"{seen.masked} of {seen.rows} rows are masked in the data: every epoch has the same "
            "masks (static masking), and most tokens are never a target",
            observed=seen.masked,
            expected=0,
            where="train_dataset",
            cause="tokens were masked once, while the dataset was made",
            fix="mask in the collator, DataCollatorForLanguageModeling, so that masks are drawn "
            "anew each time",
            severity=Severity.WARNING,
        )
    yield Measured(f"{seen.masked} of {seen.rows} rows are masked in the data", seen.masked, 0)
