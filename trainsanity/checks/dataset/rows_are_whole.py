"""TS206 dataset.rows_are_whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks._splits import rows_finding
from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.fields import MASK, TOKENS
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
    """Every row has text, and a mask of the same length.

    What it checks: rows that are null or hold a null, rows without a token besides those that the
    tokenizer adds to every text, rows whose attention mask has another length than their ids.

    Why it matters: a null row stops the run when its batch comes.  An empty one does not: its
    logits are made of padding, or of the special tokens alone, and its label is noise.

    How it is measured: exact, over all rows of training and evaluation data. The length of a mask
    counts where the batch has one.

    How to fix: ``dataset.filter(lambda row: len(row["input_ids"]) > n)``, with n the tokens that
    the tokenizer adds.

    Known false alarms: a text that is meant to be empty, as an optional field can be.

    References: read: tokenizer.num_special_tokens_to_add.
    """
    # What is no text yet has none of the tokens that a tokenizer adds.
    tokenizer = pipeline.tokenizer if scan.train.content.role == TOKENS else None
    column, held = scan.train.content.columns[0], scan.train.word
    added = tokenizer.num_special_tokens_to_add() if tokenizer is not None else 0
    special = {*tokenizer.all_special_ids} if tokenizer is not None else set()
    counts = {"null": 0, "empty": 0, "uneven": 0}
    masked = _has_mask(pipeline)
    for split in scan.splits:
        for kind, places, problem, fix in (
            ("null", split.nulls, f"null, or have a null among their {held}",
             f'dataset.filter(lambda row: row["{column}"] is not None)'),
            ("empty", split.empty(added, special), "without text",
             f'dataset.filter(lambda row: len(row["{column}"]) > {added})'),
            ("uneven", split.uneven, "of another length than their attention_mask",
             "drop the column: tokenizer.pad makes the mask"),
        ):  # fmt: skip
            counts[kind] += len(places)
            if len(places) and (kind != "uneven" or masked):
                first = int(places[0])
                yield rows_finding(
                    split,
                    len(places),
                    first,
                    f"are {problem}; the first is {split.row(first)}",
                    cause="texts that are missing or empty, or columns that were made apart",
                    fix=fix,
                )
    rows = ", ".join(f"{split.counted} in {split.name}" for split in scan.splits)
    beside = f" besides the {added} tokens that the tokenizer adds" if added else ""
    yield Measured(
        f"of {rows}: {counts['null']:,} hold a null, {counts['empty']:,} have no text{beside}, "
        f"{counts['uneven']:,} have a mask of another length",
        counts,
        dict.fromkeys(counts, 0),
    )


def _has_mask(pipeline: Pipeline) -> bool:
    """Return whether the rows' masks get into the batch; also where that cannot be seen."""
    try:
        batch = Session.of(pipeline).measurements.get("batch")
    except Exception:  # rows that no batch can be made of are what this check is for
        return True
    return any(MASK in name for micro in batch for name in micro.inputs)
