"""Which columns of a dataset are read, and what is said where none is to be read."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from trainsanity.errors import UsageError
from trainsanity.fields import BESIDE_IDS, Content
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Rows
    from trainsanity.pipeline import Pipeline


def stored_columns(content: Content, columns: Collection[str]) -> list[str]:
    """Return the columns that a block is made of."""
    return [name for name in (*content.columns, content.mask) if name in columns and name]


def refuse_without_ids(
    pipeline: Pipeline, rows: Rows, columns: list[str], content: Content | None
) -> None:
    """Stop where rows hold no ids that the model could be given.

    Raises:
        UsageError: the model takes ids, and the Trainer would keep no other column.
        Skip: the rows hold neither numbers nor texts.
    """
    has = f"{rows.name} has no column 'input_ids' (it has {', '.join(columns) or 'none'})"
    trainer = pipeline.trainer
    if trainer is not None and pipeline.args.remove_unused_columns:
        # Subclasses name other columns that they keep: pairs of texts, for one.
        trainer._set_signature_columns_if_needed()
        beside = {*BESIDE_IDS, pipeline.label_column(dict.fromkeys(columns))}
        kept = set(trainer._signature_columns) & set(columns) - beside
        takes_ids = getattr(pipeline.model, "main_input_name", None) == "input_ids"
    else:
        kept, takes_ids = set(columns), False
    if takes_ids and not kept:
        raise UsageError(f"{has}: tokenize it, and name the ids as the model's forward does")
    if content is None:
        raise Skip(f"{has}, and no numbers or texts")
