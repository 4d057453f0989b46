"""Pieces of the training batch's rows for the user's collator, drawn once for all checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import restored
from trainsanity.measurements.batches.batch import Batch, attended
from trainsanity.measurements.batches.strategies import (
    MAX_ROWS,
    Case,
    Rows,
    cases,
    cut,
    per_token,
    smallest,
)
from trainsanity.types import Cost

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from trainsanity.pipeline import Pipeline

SOURCES = 16
"""Rows of the training batch that pieces are cut from."""

FEW = 8
"""Cases of rows that hold no token ids: a processor of images takes its time, and rows that are not
cut differ in their number alone."""

MULTIPLES = (None, 8)
"""Settings of ``pad_to_multiple_of`` that are tried beside the user's own: none, and the usual."""

Settings = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Drawn:
    """Cases that the collator is given.

    Attributes:
        sources: rows that pieces are cut from; empty if all have special tokens only.
        settings: values that the collator's settings may take, its own first.
        cases: what a search that never finds anything tries, in that order.
        how: the arguments of :func:`.strategies.cases` beside rows and settings.
        untried: why there are no sources.
    """

    sources: Rows
    settings: Settings = field(default_factory=dict)
    cases: Sequence[Case] = ()
    how: Mapping[str, Any] = field(default_factory=dict)
    untried: str = "the rows have special tokens only"

    @property
    def own(self) -> dict[str, Any]:
        """The user's settings."""
        return {name: values[0] for name, values in self.settings.items()}

    def strategy(self, settings: Settings) -> SearchStrategy[Case]:
        """Draws such cases, with these settings."""
        return cases(self.sources, settings, **self.how)


@measurement(Cost.STATIC)
def drawn(pipeline: Pipeline, batch: Batch) -> Drawn:
    """Cut rows of the first step into pieces, and draw batches of them.

    Draws are derandomized, so a search for a smallest case begins with the same ones.
    """
    how: dict[str, Any]
    if any(micro.given is not None or not micro.of_tokens for micro in batch):
        # Rows of pairs, choices or pixels have columns that no cut would keep together.
        given = [dict(row) for row in batch.sources]
        rows, how = given[:: max(1, len(given) // SOURCES)], {"whole": True, "max_length": 1}
    else:
        rows = _sources(pipeline, batch)
        if not rows:
            return Drawn(rows)
        how = {
            "end": getattr(pipeline.tokenizer, "eos_token_id", None),
            "markers": _markers(pipeline, rows),
            "ragged": any(len(set(lengths(micro.rows))) > 1 for micro in batch),
            "whole": _needs_whole_rows(pipeline, rows),
            "max_length": max(lengths(rows)),
        }
    how["most_rows"] = min(MAX_ROWS, _rows_at_once(pipeline, batch))
    tried: list[Case] = []
    prepared = Drawn(rows, _settings(pipeline.data_collator), tried, how)
    with restored(()):  # Hypothesis seeds the generators, and does not put them back on Ctrl-C
        smallest(prepared.strategy(prepared.settings), tried.append)
    if not batch.of_tokens:
        del tried[FEW:]
    return prepared


def lengths(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens of each row, its padding included."""
    return [len(row["input_ids"]) for row in rows]


def listed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and arrays as lists, which can be cut and shown."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}


def _sources(pipeline: Pipeline, batch: Batch) -> Rows:
    """A few rows of the batch without special tokens, but for markers and an EOS at their end."""
    end = getattr(pipeline.tokenizer, "eos_token_id", None)
    rows = [listed(row) for micro in batch for row in micro.rows]
    rows.sort(key=lambda row: -len(row["input_ids"]))
    special = _special(pipeline) - _markers(pipeline, rows)
    columns = per_token(rows)
    kept = []
    for row in rows[:: max(1, len(rows) // SOURCES)]:
        ids = row["input_ids"][: attended(row)[0] + 1]
        places = [k for k, token in enumerate(ids) if token not in special]
        if places and ids[-1] == end:
            places.append(len(ids) - 1)
        if places:
            kept.append(cut(row, columns, places))
    return kept


def _special(pipeline: Pipeline) -> set[int]:
    tokenizer = pipeline.tokenizer
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {*(getattr(tokenizer, "all_special_ids", ()) or ()), *added}


def _rows_at_once(pipeline: Pipeline, batch: Batch) -> int:
    """Return the most rows that the run gives the collator: one that takes a single row may do."""
    most = max(len(micro.sources) for micro in batch)
    if pipeline.eval_dataset is None:
        return most
    return max(most, getattr(pipeline.args, "eval_batch_size", most))


def _markers(pipeline: Pipeline, rows: Rows) -> set[int]:
    """Return special and added tokens that every row has inside, of no other use to the tokenizer.

    A collator may look for them to tell an answer from its prompt.
    """
    tokenizer = pipeline.tokenizer
    used = {
        getattr(tokenizer, f"{name}_token_id", None)
        for name in ("pad", "eos", "bos", "cls", "sep", "unk", "mask")
    }
    inside = [set(row["input_ids"][1:-1]) for row in rows]
    return (set.intersection(*inside) & _special(pipeline)) - used if inside else set()


def _needs_whole_rows(pipeline: Pipeline, rows: Rows) -> bool:
    """Return whether a column describes the row as a whole, like the lengths of packed texts."""
    columns = {*per_token(rows), pipeline.label_column(rows[0])}
    return any(isinstance(row[key], list) for row in rows for key in row if key not in columns)


def _settings(collator: Any) -> dict[str, list[Any]]:
    """Both sides and a few multiples, where the collator has such settings; its own first."""
    found = {}
    for name, others in (
        ("padding_side", ("right", "left")),
        ("pad_to_multiple_of", MULTIPLES),
    ):
        holder = holder_of(collator, name)
        if hasattr(holder, name) and _can_be_set(holder, name):
            found[name] = list(dict.fromkeys((getattr(holder, name), *others)))
    return found


def holder_of(collator: Any, name: str) -> Any:
    """Return the object that has the setting: the padding side belongs to the tokenizer."""
    return getattr(collator, "tokenizer", None) if name == "padding_side" else collator


def _can_be_set(holder: Any, name: str) -> bool:
    try:
        setattr(holder, name, getattr(holder, name))
    except AttributeError:  # a frozen dataclass, or a property
        return False
    return True
