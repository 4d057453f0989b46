"""TS216 dataset.tokens_are_known."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.known_tokens import KnownTokens
from trainsanity.types import Cost, Finding, Measured, Severity

MOST = 0.5
"""Part of unknown tokens above which the vocabulary is another one.  A last resort."""

MANY = 0.1
"""The same for a word about it: a vocabulary that fits has next to none."""


@check(
    "TS216",
    "dataset.tokens_are_known",
    cost=Cost.STATIC,
    needs=("train_dataset",),
    rules_out="unknown tokens",
)
def tokens_are_known(known_tokens: KnownTokens) -> Iterator[Measured | Finding]:
    """The vocabulary knows the tokens of inputs and targets.

    What it checks: the share of the unknown token (``[UNK]``) among the ids of the first rows, and
    among the labels where they are ids of a vocabulary.

    Why it matters: text in lower case under a vocabulary of capitals, or targets tokenized by
    the source language's tokenizer, are unknown tokens one after the other.  The loss falls fast,
    because there is one thing to say.

    How it is measured: exact, on up to 256 rows as they are in the dataset; padding and labels of
    -100 are left out.  More than half is a failure, more than a tenth a warning (both last
    resorts), but a failure if nearly every row has the same number of them, two or more, while the
    lengths differ: then it is the form that is unknown and not the text.  It is a failure as well
    where the tokenizer knows no word of its own vocabulary with a capital (64 are tried), and the
    first word of most rows, which has one in most languages, is unknown.  Where the unknown token
    is the padding or the end, too, it cannot be counted.

    How to fix: tokenize by the vocabulary that the model was trained with::

        # bad
        labels = tokenizer(row["target"])["input_ids"]
        # good
        labels = tokenizer(text_target=row["target"])["input_ids"]

    and bring the text into the vocabulary's case.

    Known false alarms: data of signs that are unknown on purpose.

    References: jonatasgrosman/huggingsound#20, jessevig/bertviz#106, huggingface/trl#439,
    digitalepidemiologylab/covid-twitter-bert#5.
    """
    seen = known_tokens
    for what, count, unknown in (
        ("input tokens", seen.inputs, seen.unknown_inputs),
        ("target tokens (labels)", seen.targets, seen.unknown_targets),
    ):
        share = unknown / count if count else 0.0
        written = seen.in_each_row if what.startswith("input") and share <= MOST else 0
        if share > MANY and written > 1:
            yield Finding(
                f"{unknown:,} of {count:,} {what} are the unknown token, {written} in every row, "
                "however long it is: what is written into each row alike is not in the vocabulary",
                observed=written,
                expected=0,
                where="input_ids",
                cause="brackets and quotes of Python's lists, where a function that formats one "
                "row is mapped with batched=True; or a template's marks that this tokenizer does "
                "not have",
                fix="decode a row and read it: tokenizer.decode(train_dataset[0]['input_ids'])",
            )
        elif share > MANY and what.startswith("input") and _capitals(seen):
            yield Finding(
                f"{unknown:,} of {count:,} {what} are the unknown token, the first of {seen.begun} "
                f"of {seen.rows} rows among them, and of {seen.capitals} words of the vocabulary "
                "the tokenizer knows none with a capital",
                observed=round(share, 4),
                expected="next to none",
                where="input_ids",
                cause="the vocabulary is in lower case, and the tokenizer leaves capitals as they "
                "are (do_lower_case=False)",
                fix="load the tokenizer as it was published, or AutoTokenizer.from_pretrained(..., "
                "do_lower_case=True)",
            )
        elif share > MANY:
            yield Finding(
                f"{unknown:,} of {count:,} {what} are the unknown token: {share:.0%} are not in "
                "the vocabulary",
                observed=round(share, 4),
                expected="next to none",
                where="input_ids" if what.startswith("input") else "labels",
                cause="the text was tokenized by another vocabulary than it is written in: upper "
                "and lower case, another language's tokenizer, or a missing text_target="
                if share > MOST
                else None,
                fix="tokenize by the tokenizer of this language, and in the vocabulary's case",
                severity=Severity.FAILURE if share > MOST else Severity.WARNING,
            )
    yield Measured(
        f"{seen.unknown_inputs:,} of {seen.inputs:,} input tokens and {seen.unknown_targets:,} of "
        f"{seen.targets:,} target tokens of {seen.rows} rows are unknown",
        {"inputs": seen.unknown_inputs, "targets": seen.unknown_targets},
        {"inputs": 0, "targets": 0},
    )


def _capitals(seen: KnownTokens) -> bool:
    """Return whether capitals are what is unknown: no word has one, and most texts begin so."""
    return bool(seen.capitals) and seen.begun > MOST * seen.rows
