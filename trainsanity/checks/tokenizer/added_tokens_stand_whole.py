"""TS120 tokenizer.added_tokens_stand_whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.added_tokens import AddedTokens
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

HALF = 0.5
"""Share of rows from which on such a token is part of how they are written.  A definition: below it
most rows have none, and somebody may have written about it."""

FEW = 3
"""Rows: one or two may speak of it."""


@check(
    "TS120",
    "tokenizer.added_tokens_stand_whole",
    needs=("tokenizer", "train_dataset"),
    rules_out="tokens added too late",
)
def added_tokens_stand_whole(
    pipeline: Pipeline, added_tokens: AddedTokens
) -> Iterator[Measured | Finding]:
    """A token that was added to the tokenizer stands in the rows as one id.

    What it checks: whether the text of 64 rows holds tokens of ``get_added_vocab()`` whose id none
    of them has.

    Why it matters: rows that were tokenized before ``add_tokens`` hold the letters of the new
    tokens. Whoever asks the model later gets one id for each, whose embedding was never trained.

    How it is measured: exact, on 64 rows, for tokens of three and more characters and no blank
    within, since words may be tokenized one by one: the text of the rows is tokenized again. It is
    a failure where half of the rows get the id of one, which no row holds; in fewer rows, somebody
    may have written about it: a warning from three rows on.

    How to fix: add tokens before anything is tokenized, and clear the cache of ``map``::

        # bad
        rows = texts.map(tokenize)
        tokenizer.add_tokens(["<order>"])
        # good
        tokenizer.add_tokens(["<order>"])
        rows = texts.map(tokenize)

    Known false alarms: texts whose special tokens are split on purpose, call by call, with a token
    that no template writes. A tokenizer that is told to split special tokens is skipped.

    References: mosaicml/composer#1061.
    """
    if getattr(pipeline.tokenizer, "split_special_tokens", False):
        raise Skip("the tokenizer is told to split special tokens")
    found = added_tokens
    if found.touched >= FEW:
        token, count = max(found.spelled.items(), key=lambda pair: pair[1])
        yield Finding(
            f"{found.touched} of {found.rows} rows spell tokens that were added to the tokenizer, "
            f"as {token!r} in {count}, and no row holds the id",
            observed=found.touched,
            expected=0,
            where=", ".join(found.spelled),
            cause="the rows were tokenized before the tokens were added, or by another tokenizer",
            fix="add tokens first, and tokenize then; a cache of map() keeps the old rows",
            severity=Severity.FAILURE if found.touched >= HALF * found.rows else Severity.WARNING,
        )
    yield Measured(
        f"{found.touched} of {found.rows} rows spell an added token whose id is in no row",
        found.touched,
        0,
    )
