"""TS206 dataset.rows_are_whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS206",
    "dataset.rows_are_whole",
    needs=("train_dataset",),
    rules_out="empty rows",
    stops=True,
)
def rows_are_whole(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Every row has a text, without holes, and a mask as long as it.

    What it checks: rows that are null or hold a null, rows without a token besides those that the
    tokenizer adds to every text, rows whose attention mask has another length than their ids.

    Why it matters: a null row stops the run when its batch comes.  An empty one does not: its
    logits are made of padding, or of the special tokens alone, and its label is noise.

    How it is measured: exact, over all rows of training and evaluation data.

    How to fix: ``dataset.filter(lambda row: len(row["input_ids"]) > n)``, with n the tokens that
    the tokenizer adds.

    Known false alarms: a text that is meant to be empty, as an optional field can be.

    References: read: tokenizer.num_special_tokens_to_add.
    """
    tokenizer = pipeline.tokenizer
    added = tokenizer.num_special_tokens_to_add() if tokenizer is not None else 0
    for split in scan.splits:
        special = {*tokenizer.all_special_ids} if tokenizer is not None else set()
        for places, said, fix in (
            (split.nulls, "null, or have a null among their ids",
             'dataset.filter(lambda row: row["input_ids"] is not None)'),
            (split.empty(added, special), "without text",
             f'dataset.filter(lambda row: len(row["input_ids"]) > {added})'),
            (split.uneven, "of another length than their attention_mask",
             "drop the column: tokenizer.pad makes the mask"),
        ):  # fmt: skip
            if len(places):
                yield Finding(
                    f"{len(places):,} of {split.counted} in {split.name} are {said}; "
                    f"the first is {split.row(int(places[0]))}",
                    observed=len(places),
                    expected=0,
                    where=split.row(int(places[0])),
                    cause="texts that are missing or empty, or columns that were made apart",
                    fix=fix,
                )
    told = f", besides the {added} that the tokenizer adds" if added else ""
    yield Measured(f"{scan.train.counted} have a text of at least one token{told}", 0, 0)
