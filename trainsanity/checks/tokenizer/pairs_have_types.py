"""TS113 tokenizer.pairs_have_types."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import Batch, quiet
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

TYPES = "token_type_ids"
ENOUGH = 4
"""Rows that all have the layout of a pair."""


@check(
    "TS113",
    "tokenizer.pairs_have_types",
    needs=("tokenizer",),
    rules_out="pairs without token types",
)
def pairs_have_types(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Pairs of texts come with the token types that their tokenizer and their model know.

    What it checks: for a tokenizer that names ``token_type_ids`` among the model's inputs and a
    model with two types or more: whether rows that are pairs have them in the batch.

    Why it matters: without them the model takes both texts for the first one. The embedding of the
    second is never trained, and ``pipeline()`` passes it all the same when the model is used.

    How it is measured: exact, on the first step's batches. A row is a pair if it has as many
    separators, and one at the end, as the tokenizer gives to two texts. If all of at least 4 rows
    are and the batch has no types it is a warning: a text in which the user wrote the separator
    looks the same, and has one type.

    How to fix: ``tokenizer(first, second)`` and keep all columns that it returns; a dataset of your
    own has to return ``token_type_ids``, too.

    Known false alarms: separators that are part of a text.

    References: huggingface/transformers#48128.
    """
    tokenizer = pipeline.tokenizer
    names = getattr(tokenizer, "model_input_names", None) or ()
    if TYPES not in names:
        raise Skip("the tokenizer does not name token_type_ids among the model's inputs")
    model = unwrapped(pipeline.model)
    kinds = int(getattr(pipeline.config, "type_vocab_size", 0) or 0)
    if kinds < 2 or TYPES not in inspect.signature(model.forward).parameters:
        raise Skip("the model has no two types of tokens")
    batch.require_ids()
    with preserved(pipeline), quiet(pipeline):  # each call leaves its truncation in the tokenizer
        separators = _separators(tokenizer)
    if not separators:
        raise Skip("the tokenizer gives a pair the types of one text")
    sep = tokenizer.sep_token_id
    rows = [row for micro in batch for row in _rows(micro.inputs)]
    pairs = sum(row.count(sep) == separators and row[-1] == sep for row in rows)
    typed = all(TYPES in micro.inputs for micro in batch)
    if pairs == len(rows) >= ENOUGH and not typed:
        yield Finding(
            f"all {pairs} rows are pairs of texts, and the batch has no token_type_ids",
            observed=0,
            expected=pairs,
            where="the columns of the dataset",
            cause="the model takes both texts for the first segment: the embedding of the second "
            "is never trained",
            fix="tokenizer(first, second) with return_token_type_ids=True, and keep the column",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{pairs} of {len(rows)} rows are pairs of texts; token_type_ids are "
        f"{'in' if typed else 'not in'} the batch",
        typed,
        None,
    )


def _separators(tokenizer: Any) -> int:
    """Return how many separators a pair has; 0 if its types are all the same."""
    if getattr(tokenizer, "sep_token_id", None) is None:
        return 0
    try:
        pair = tokenizer("a", "a", return_token_type_ids=True)
        one = list(tokenizer("a")["input_ids"]).count(tokenizer.sep_token_id)
    except (TypeError, ValueError, KeyError, NotImplementedError):
        return 0
    if len(set(pair.get(TYPES) or ())) < 2:
        return 0
    count = list(pair["input_ids"]).count(tokenizer.sep_token_id)
    return count if count > one else 0


def _rows(inputs: Any) -> Iterator[list[int]]:
    mask = inputs.get("attention_mask")
    for k, row in enumerate(inputs["input_ids"]):
        yield (row if mask is None or mask.dim() != 2 else row[mask[k] != 0]).tolist() or [-1]
