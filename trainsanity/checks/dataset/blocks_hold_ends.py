"""TS266 dataset.blocks_hold_ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import CONVERSATION_COLUMNS, Documents
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BLOCKS = 32
"""Blocks from which on it is no chance that none holds the end of a text.  Chosen: a single text
may fill a few."""


@check(
    "TS266",
    "dataset.blocks_hold_ends",
    needs=("tokenizer", "train_dataset"),
    rules_out="never stops",
)
def blocks_hold_ends(
    pipeline: Pipeline, documents: Documents, scan: Scan
) -> Iterator[Measured | Finding]:
    """Texts that were laid end to end in blocks have a token between them.

    What it checks: rows of one length, as `run_clm.py` makes them of a file: that EOS, or another
    special token, stands somewhere in them.

    Why it matters: most tokenizers of language models add no EOS by themselves. Without one the
    last words of a text are followed by the first of another, which the model is trained to
    predict, and it never learns that a text ends.

    How it is measured: exact, over all rows of the training data; other special tokens are looked
    for in 64 rows. Asked from 32 blocks on.

    How to fix: put the token in when the texts are tokenized, before they are joined.

    Bad::

        tokenizer(texts)

    Good::

        tokenizer([text + tokenizer.eos_token for text in texts])

    Known false alarms: none that fail. It is a warning, for the blocks may be parts of one long
    text, a book or a log, that has no end to be learnt.

    References: huggingface/transformers#23198.
    """
    train, tokenizer = scan.train, pipeline.tokenizer
    train.require_one_sequence()
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise Skip("the tokenizer has no EOS")
    names = set(train.rows.table.schema.names)
    lengths = train.lengths
    blocks = int((lengths == train.longest).sum())
    if blocks < max(BLOCKS, len(lengths) - 1) or names & {*CONVERSATION_COLUMNS}:
        raise Skip("the rows are no blocks of one length")
    special = {*tokenizer.all_special_ids} - {getattr(tokenizer, "unk_token_id", None)}
    others = sum(bool(special & {*one.ids}) for one in documents.found)
    found = train.special.get(end)
    ended = found.rows if found is not None else 0
    if not ended and not others:
        yield Finding(
            f"none of {blocks:,} blocks of {train.longest} tokens holds {tokenizer.eos_token!r} or "
            "another special token: no text ends in them",
            observed=0,
            where="train_dataset",
            cause="texts were joined with nothing between them, for the tokenizer adds no EOS; or "
            "all blocks are parts of one long text, or every text was cut",
            fix="tokenizer([text + tokenizer.eos_token for text in texts]), before they are joined",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{ended:,} of {len(lengths):,} rows of {train.longest} tokens hold "
        f"{tokenizer.eos_token!r}; {others} of {len(documents.found)} rows looked at hold a "
        "special token",
        ended,
    )
