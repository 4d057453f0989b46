"""A few rows' texts, tokenized again beside the ids that are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.measurements.data.scan import Scan, Split
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PROBES = 32
"""Rows tokenized again, evenly spaced: a stale cache has all rows wrong, or those that an edit
changed; one in ten is among 32 rows with 97 %."""

SHOWN = 8
"""Ids of a row that are told."""

TEXT = "text"
"""The column that holds the text unless ``SFTConfig.dataset_text_field`` names another."""

MESSAGES = "messages"
"""The column of conversations, which the tokenizer's chat template renders."""


@dataclass(frozen=True)
class Retokenized:
    """Which of the probed rows hold the tokens of their text.

    Attributes:
        column: the column that the rows were made of.
        rows: rows tokenized again.
        wrong: their numbers in the dataset, where the ids are not those of the text.
        stored, expected: the first of those: its first ids as stored, and as the text gives them.
        said, meant: a few words of it, from where the row and its text come apart.
    """

    column: str
    rows: int
    wrong: tuple[int, ...]
    stored: tuple[int, ...] = ()
    expected: tuple[int, ...] = ()
    said: str = ""
    meant: str = ""


@measurement(Cost.STATIC)
def retokenized(pipeline: Pipeline, scan: Scan) -> Retokenized:
    """Tokenize a few texts of the training data with the pipeline's tokenizer."""
    import numpy

    from trainsanity.isolation.snapshot import preserved
    from trainsanity.measurements.batches.batch import quiet

    train, tokenizer = scan.train, pipeline.tokenizer
    train.require_one_sequence()
    if tokenizer is None:
        raise Skip("this pipeline has no tokenizer")
    columns = text_columns(pipeline, train)
    if not columns:
        raise Skip("no column of train_dataset holds the text that its rows were made of")
    # Rows of the greatest length may have lost an end.
    places = numpy.flatnonzero((train.lengths > 0) & (train.lengths < train.longest))
    if not len(places):
        raise Skip("all rows have the same length, as packed or cut ones have")
    chosen = places[numpy.unique(numpy.linspace(0, len(places) - 1, PROBES).round().astype(int))]
    numbers = [train.rows.number(int(place)) for place in chosen]
    rows = [attended(row) for row in train.rows.read(chosen)]
    with preserved(pipeline), quiet(pipeline):
        for column in columns:
            told = [
                (number, row["input_ids"], _compare(tokenizer, row["input_ids"], text))
                for number, row in zip(numbers, rows, strict=True)
                if (text := written(tokenizer, row.get(column))) is not None
            ]
            named = column in _usual(pipeline) and bool(told)
            if named or any(one.whole for *_, one in told):
                wrong = [one for one in told if not one[2].fits]
                _, stored, compared = wrong[0] if wrong else told[0]
                expected = compared.ids
                said, meant = _apart(tokenizer, stored, expected) if wrong else ("", "")
                return Retokenized(
                    column,
                    len(told),
                    tuple(number for number, *_ in wrong),
                    tuple(stored[:SHOWN]),
                    tuple(expected[:SHOWN]),
                    said,
                    meant,
                )
    raise Skip(f"no row consists of the tokens of one column alone ({', '.join(columns)})")


def written(tokenizer: Any, value: Any) -> str | None:
    """Return what :func:`text_of` does; None of messages that are empty or cannot be rendered.

    dataset.conversations_are_usable judges those.
    """
    try:
        text = text_of(tokenizer, value)
    except Exception:  # jinja's, or whatever a template raises by raise_exception
        return None
    return text if text or isinstance(value, str) else None


def _usual(pipeline: Pipeline) -> tuple[str, ...]:
    return (str(getattr(pipeline.args, "dataset_text_field", None) or TEXT), TEXT, MESSAGES)


def text_columns(pipeline: Pipeline, split: Split) -> list[str]:
    """Return columns with a text in each row, those with the usual names first."""
    from pyarrow import types

    schema = split.rows.table.schema
    label = split.labels.column if split.labels is not None else None
    names = [
        field.name
        for field in schema
        if (types.is_string(field.type) or types.is_large_string(field.type))
        and field.name != label
    ]
    if MESSAGES in schema.names:
        names.append(MESSAGES)
    return sorted(names, key=lambda name: name not in _usual(pipeline))


def attended(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with its attended ids alone."""
    mask = row.get("attention_mask") or [1] * len(row["input_ids"])
    ids = [token for token, one in zip(row["input_ids"], mask, strict=False) if one]
    return {**row, "input_ids": ids}


def text_of(tokenizer: Any, value: Any) -> str:
    """Return a column's value as the text that was tokenized; empty if it is none."""
    if isinstance(value, str):
        return value
    if value and isinstance(value[0], Mapping) and getattr(tokenizer, "chat_template", None):
        return str(tokenizer.apply_chat_template(value, tokenize=False))
    return ""


def _apart(tokenizer: Any, stored: Sequence[int], expected: Sequence[int]) -> tuple[str, str]:
    """Return what the row says from where it and its text differ, and what the text says there."""
    special = set(tokenizer.all_special_ids)
    row, text = ([one for one in ids if one not in special] for ids in (stored, expected))
    pairs = enumerate(zip(row, text, strict=False))
    at = next((k for k, (a, b) in pairs if a != b), min(len(row), len(text)))
    said, meant = (str(tokenizer.decode(ids[at : at + SHOWN])) for ids in (row, text))
    return said, meant


@dataclass(frozen=True)
class _Compared:
    """Return whether a row's ids hold a text's, and whether they are nothing else."""

    ids: list[int]
    fits: bool
    whole: bool


def _compare(tokenizer: Any, row: list[int], text: str) -> _Compared:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
    special = set(tokenizer.all_special_ids)
    bare = [token for token in row if token not in special]
    plain = [token for token in ids if token not in special]
    if not plain:
        return _Compared(ids, not bare, whole=False)
    # A cut row holds one end of its text.
    cut = bool(bare) and bare in (plain[: len(bare)], plain[len(plain) - len(bare) :])
    if cut or _holds(bare, plain):
        return _Compared(ids, fits=True, whole=bare == plain)
    # In a longer text the tokens at its ends may be merged with their neighbours.
    shown = tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return _Compared(ids, text.strip() in shown, whole=False)


def _holds(row: Sequence[int], part: Sequence[int]) -> bool:
    size = len(part)
    return any(row[k : k + size] == part for k in range(len(row) - size + 1))
