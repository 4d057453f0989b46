"""Tokens that were added to a tokenizer, and whether the rows hold them as one id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainsanity.engine.store import measurement
from trainsanity.fields import plain_values
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.known_tokens import first_rows
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 64
"""Rows that are read as text."""

SHORT = 3
"""Characters of a token from which on it is looked for: shorter ones stand in any text."""


@dataclass(frozen=True)
class AddedTokens:
    """The tokens of ``get_added_vocab()`` in a few rows.

    Attributes:
        rows: how many rows were read.
        spelled: by token of which no row has the id, how many rows get it if they are tokenized
            again.
        touched: rows that get one of these.
    """

    rows: int
    spelled: dict[str, int]
    touched: int


@measurement(Cost.STATIC)
def added_tokens(pipeline: Pipeline) -> AddedTokens:
    """Look for the texts of added tokens in a few rows, beside their ids.

    Raises:
        Skip: no tokenizer has added tokens, or the rows hold no ids of one sequence.
    """
    tokenizer = pipeline.tokenizer
    added: dict[str, int] = getattr(tokenizer, "get_added_vocab", dict)()
    # Words that are tokenized one by one never make a token of two.
    known = {
        token: number
        for token, number in added.items()
        if len(token) >= SHORT and not any(map(str.isspace, token.strip()))
    }
    if not known:
        raise Skip("the tokenizer has no added tokens")
    ids = [plain_values(row.get("input_ids")) for row in first_rows(pipeline)[:ROWS]]
    rows = [row for row in ids if isinstance(row, list) and row]
    if not rows or not all(isinstance(token, int) for row in rows for token in row):
        raise Skip("the rows hold no token ids of one sequence")
    held = [set(row) for row in rows]
    absent = [token for token, number in known.items() if not any(number in row for row in held)]
    with preserved(pipeline), quiet(pipeline):
        texts = [str(tokenizer.decode(row)) for row in rows]
        # A run of three blanks stands in one of eight, which is a token of its own.
        again = [
            set(tokenizer(text, add_special_tokens=False)["input_ids"])
            if any(token in text for token in absent)
            else set()
            for text in texts
        ]
    counts = {token: sum(known[token] in ids for ids in again) for token in absent}
    spelled = {token: count for token, count in counts.items() if count}
    touched = sum(any(known[token] in ids for token in spelled) for ids in again)
    return AddedTokens(len(rows), spelled, touched)
