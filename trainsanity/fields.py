"""Rows and batches: how they are reached, and which of their columns play which role.

A check asks for a role, token ids or pixels, and never for a column of one name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

IDS, MASK, ANSWERS = "input_ids", "attention_mask", "completion_mask"

TOKENS = "token ids"
PIXELS = "pixels"
AUDIO = "audio"
NUMBERS = "numbers"
TEXT = "text"

BESIDE_IDS = ("attention_mask", "token_type_ids", "position_ids", "decoder_input_ids", "label_ids",
              "seq_idx", "cache_position")  # fmt: skip
"""Columns that describe ids, or are made of them."""

TEXTS = ("input", "prompt", "chosen", "rejected", "completion", "response", "answer", "question",
         "query", "context", "passage", "document", "anchor", "positive", "negative")  # fmt: skip
"""Words in the names of columns with the ids of texts.  Chosen: ``entity_ids`` or ``ids`` may
be numbers of something else, which no embedding of tokens has to hold."""

SIDES = ("chosen", "rejected")
"""Words in the names of a pair's columns."""


@dataclass(frozen=True)
class Content:
    """The columns that a row's inputs lie in.

    Attributes:
        role: what they hold.
        columns: their names, in the order in which the model reads them.
        mask: the column that says which of the ids are text, or None.
        sequences: which of the columns make up each sequence that the model is given of a row: a
            pair has two, its prompt in both.
    """

    role: str
    columns: tuple[str, ...]
    mask: str | None = None
    sequences: tuple[tuple[str, ...], ...] = ()

    @property
    def plain(self) -> bool:
        """Return whether it is one column of ids, as most datasets have it."""
        return self.columns == (IDS,)

    @property
    def words(self) -> str:
        """The columns, for a sentence."""
        return " and ".join(filter(None, (", ".join(self.columns[:-1]), self.columns[-1])))


PLAIN = Content(TOKENS, (IDS,), MASK, ((IDS,),))


def token_content(names: Iterable[str]) -> Content | None:
    """Return where token ids lie among columns of these names; None if nowhere.

    Beside ``input_ids`` these are ``prompt_ids``, ``chosen_input_ids``, ``input_ids_rejected`` ...
    Answers to other prompts (``KL_``) are no content of a row.
    """
    named = [*names]
    if IDS in named:
        return Content(TOKENS, (IDS,), MASK if MASK in named else None, ((IDS,),))
    found = [
        name
        for name in named
        if re.search(r"(^|_)ids($|_)", name)
        and any(stem in name for stem in TEXTS)
        and name not in BESIDE_IDS
        and name[:3] != "KL_"
    ]
    if not found:
        return None
    # A prompt comes before what answers it.
    found.sort(key=lambda name: "prompt" not in name)
    sides = [[name for name in found if side in name] for side in SIDES]
    shared = [name for name in found if not any(side in name for side in SIDES)]
    if all(sides):
        prompts = [name for name in shared if "prompt" in name]
        sequences = tuple((*prompts, *side) for side in sides)
    else:
        sequences = (tuple(found),)
    return Content(TOKENS, tuple(found), None, sequences)


def role_of(name: str) -> str:
    """Return what a column of numbers holds, by the names that transformers gives its inputs."""
    if re.search(r"pixel|image", name):
        return PIXELS
    if re.search(r"input_values|input_features|audio|speech|wave", name):
        return AUDIO
    return NUMBERS


def is_indexable(dataset: Any) -> bool:
    """Return whether rows can be asked for by number; a stream gives them one after the other."""
    from torch.utils.data import IterableDataset

    # Torch's streams inherit a __getitem__ that raises.
    numbered = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    return numbered and hasattr(dataset, "__len__")


def plain_values(value: Any) -> Any:
    """Return tensors and arrays as lists, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def sequences_of(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], collator: Any = None
) -> list[dict[str, Any]] | None:
    """Return the sequences of rows in the order in which a batch has them.

    A pair's chosen sides stand before all rejected ones, or each before its own; the choices of a
    row stand one after the other.  Which of these it is, is seen by the ids in the batch.  Where
    a prompt has more answers than two, all sides are looked for, in whatever order.

    Args:
        rows: what the collator was given.
        batch: what it made, with ``input_ids`` of ``[B, T]`` or ``[B, choices, T]``.
        collator: what made it; sequences that it joins it may cut at a ``max_length`` of its own.

    Returns:
        For each row of the flattened ``input_ids`` a mapping with ``input_ids``, and what goes by
        token or by row beside them; None if the rows hold no token ids, or too few.
    """
    if not rows or IDS not in batch:
        return None
    content = token_content(rows[0])
    if content is None or any(name not in row for row in rows for name in content.columns):
        return None
    if content.plain:
        nested = [has_choices(row) for row in rows]
        if not any(nested):
            return _by_columns(rows, batch) or [dict(row) for row in rows]
        return [one for row in rows for one in _choices(row)] if all(nested) else None
    kept = cut_of(collator)
    named = content.sequences
    if len(named) > 1 and several_a_row(rows, batch) > len(named):
        named = (*named, *_further_sides(rows, named[0]))
    by_side = [[_sequence(row, columns, kept) for row in rows] for columns in named]
    if len(by_side) == 1:
        return by_side[0]
    ids = plain_values(batch[IDS])
    ways = []
    for sides in [by_side] if len(by_side) == 2 else permutations(by_side):
        ways.append([one for side in sides for one in side])
        ways.append([one for pair in zip(*sides, strict=True) for one in pair])
    return max(ways, key=lambda way: _fitting(way, ids))


def _further_sides(
    rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Return the columns of further answers: named as the chosen one, with another word for it."""
    pattern = re.escape(columns[-1]).replace(SIDES[0], r"(\w+)")
    found = []
    for name in rows[0]:
        other = re.fullmatch(pattern, name)
        if (
            other
            and other[1] not in (*SIDES, "prompt")
            and name not in BESIDE_IDS
            and all(_are_ids(plain_values(row.get(name))) for row in rows)
        ):
            found.append((*columns[:-1], name))
    return found[:2]


def _by_columns(
    rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Return the sequences of a batch that has another column of its rows behind ``input_ids``.

    As losses of pairs that are written by hand have it; None if the batch is something else.
    """
    ids = plain_values(batch[IDS])
    sides, rest = divmod(len(ids), len(rows))
    if sides < 2 or rest:
        return None
    names = [
        name
        for name, value in rows[0].items()
        if name not in BESIDE_IDS and name != "labels" and _are_ids(plain_values(value))
    ]
    chosen: list[str] = []
    for k in range(sides):
        part = ids[k * len(rows) : (k + 1) * len(rows)]
        fits = [name for name in names if _fitting(_only(rows, name), part) == len(rows)]
        if not fits:
            return None
        chosen.append(fits[0])
    if len(set(chosen)) < 2:
        return None
    return [one for name in chosen for one in _only(rows, name)]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, int) for one in value)


def _only(rows: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{IDS: list(plain_values(row.get(name, ())))} for row in rows]


def several_a_row(rows: Sequence[Any], batch: Mapping[str, Any]) -> int:
    """Return how many rows of a batch stand for each row that it was made of; 0 if not so."""
    if not rows or IDS not in batch:
        return 0
    times, rest = divmod(len(batch[IDS]), len(rows))
    return times if times > 1 and not rest else 0


def with_targets(
    rows: list[dict[str, Any]], batch: dict[str, Any], ignored: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows and batch with the labels that a mask of the answers stands for.

    Losses of preferences read a ``completion_mask`` instead of labels.

    Args:
        rows: sequences, with a mask of their own where their columns tell answers from prompts.
        batch: with ``input_ids`` of ``[B, T]``.
        ignored: the label of what is not counted.
    """
    mask: Any = batch.get(ANSWERS)
    ids: Any = batch.get(IDS)
    if "labels" in batch or mask is None or getattr(mask, "shape", 0) != getattr(ids, "shape", 1):
        return rows, batch
    labels = ids.clone() if hasattr(ids, "clone") else ids.copy()
    labels[mask == 0] = ignored
    told = [
        {**row, "labels": [t if one else ignored
                           for t, one in zip(row[IDS], row[ANSWERS], strict=True)]}
        if ANSWERS in row and len(row[ANSWERS]) == len(row[IDS])
        else row
        for row in rows
    ]  # fmt: skip
    return told, {**batch, "labels": labels}


def has_choices(row: Mapping[str, Any]) -> bool:
    """Return whether a row has several sequences of ``input_ids``, of which one is chosen."""
    ids = plain_values(row.get(IDS))
    return bool(ids) and isinstance(ids[0], list | tuple)


def _choices(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    columns = {key: plain_values(value) for key, value in row.items()}
    count = len(columns[IDS])
    for k in range(count):
        yield {
            key: value[k] if isinstance(value, list | tuple) and len(value) == count else value
            for key, value in columns.items()
        }


def cut_of(collator: Any) -> slice:
    """Return what a collator that joins columns keeps of each sequence, by its own settings."""
    limit = getattr(collator, "max_length", None)
    if not isinstance(limit, int) or limit < 1:
        return slice(None)
    if getattr(collator, "truncation_mode", "keep_start") == "keep_end":
        return slice(-limit, None)
    return slice(limit)


def _sequence(row: Mapping[str, Any], columns: tuple[str, ...], kept: slice) -> dict[str, Any]:
    parts = [list(plain_values(row[name])) for name in columns]
    answers = [
        0 if "prompt" in name else 1
        for name, part in zip(columns, parts, strict=True)
        for _ in part
    ]
    ids = [token for part in parts for token in part]
    return {IDS: ids[kept], ANSWERS: answers[kept]}


def _fitting(rows: list[dict[str, Any]], ids: Any) -> int:
    """Return how many sequences lie at an end of the batch's row of the same number."""
    return sum(
        row[IDS] in (padded[: len(row[IDS])], padded[len(padded) - len(row[IDS]) :])
        for row, padded in zip(rows, ids, strict=False)
    )


def flat_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a batch whose choices are rows of their own: what goes by token as ``[B, T]``."""
    ids = batch.get(IDS)
    dims = getattr(ids, "ndim", 2)
    if ids is None or dims < 3:
        return dict(batch)
    shape = ids.shape
    return {
        name: value.reshape(-1, shape[-1]) if getattr(value, "shape", None) == shape else value
        for name, value in batch.items()
    }


def logits_of(output: Any) -> Any:
    """Return what a model predicts, of whatever kind its output is; None if nothing shows it.

    The ends of a span are two numbers of each token.  A plain module may return a dictionary, or a
    tuple with its loss first.
    """
    import torch

    if torch.is_tensor(output):
        return output if output.dim() else None
    if isinstance(output, tuple) and not hasattr(output, "_fields"):
        return next((one for one in output if torch.is_tensor(one) and one.dim() > 1), None)
    found = {name: output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
             for name in ("logits", "start_logits", "end_logits")}  # fmt: skip
    if found["logits"] is not None:
        return found["logits"]
    ends: list[Any] = [found["start_logits"], found["end_logits"]]
    return None if any(one is None for one in ends) else torch.stack(ends, -1)
