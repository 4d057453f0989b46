"""Answers beside their own prompts, and beside those of rows near by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.objectives.base import CAUSAL_LM, IGNORED
from trainsanity.objectives.masked_lm import SEQ2SEQ
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 512
"""Rows that are read, the last ones: what is shifted stays so to the end.  Chosen: 20 answers that
point somewhere are among them where one in 25 does."""

NEAR = 16
"""Rows to either side whose prompts are looked at: as many lines may be lost from a file."""

RARE = 0.1
"""An item that stands in more than this share of the prompts says nothing of one of them.
Chosen, for words that every question has."""

HELD = 0.5
"""A prompt that holds half of another is a later turn of the same talk, or the next window of the
same text: what the answer shares with it is no sign."""

FORMS = (
    *(("prompt", side) for side in ("chosen", "rejected", "completion", "response")),
    *(("instruction", side) for side in ("output", "response")),
    *(("question", side) for side in ("answer", "response")),
    *(("query", side) for side in ("response", "answer", "positive")),
    ("anchor", "positive"), ("document", "summary"), ("article", "highlights"),
    ("text", "summary"), ("source", "target"), ("input", "output"),
    *((f"prompt_{ids}", f"{side}_{ids}") for ids in ("ids", "input_ids")
      for side in ("chosen", "rejected", "completion", "answer")),
)  # fmt: skip
"""Columns of what is asked and of what is answered, in the words of datasets that people use."""

KINDS = (CAUSAL_LM, SEQ2SEQ)
"""Objectives whose ids and labels are a prompt and an answer."""

_WORD = re.compile(r"\w+")


@dataclass
class Shifted:
    """Answers of one column.

    Attributes:
        asked: the column of the prompts.
        column: the column of the answers.
        rows: rows whose answer shares more with one prompt near by than with any other.
        own: how many of these prompts are the row's own.
        others: how many are those of a row that lies as far away as `by` says.
        by: the distance that most of the others have, in rows.
        example: the number of the first of them.
        elsewhere: the answers are those of another column, in another order, as negatives are.
    """

    asked: str
    column: str
    rows: int = 0
    own: int = 0
    others: int = 0
    by: int = 0
    example: int = 0
    elsewhere: bool = False


@measurement(Cost.STATIC)
def shifted_rows(pipeline: Pipeline) -> list[Shifted]:
    """Look for the prompt that each of the last rows' answers shares most with.

    Raises:
        Skip: the rows have no prompts beside answers, or cannot be read by number.
    """
    rows = pipeline.train_dataset
    if not is_indexable(rows):
        raise Skip("rows of a stream have no neighbours that can be asked for")
    first = max(0, len(rows) - ROWS)
    with preserved(pipeline), quiet(pipeline):
        # Pictures and sounds beside the texts are not read for them.
        names = _columns(pipeline, getattr(rows, "column_names", None) or _keys(rows, first))
        if hasattr(rows, "select_columns"):
            rows = rows.select_columns(names)
        read = [rows[number] for number in range(first, len(rows))] if names else []
    sides = _sides(pipeline, [row for row in read if isinstance(row, Mapping)])
    if not sides:
        raise Skip("the rows have no column of prompts beside one of answers")
    found = []
    for (asked, column), pairs in sides.items():
        one = _held(Shifted(asked, column), pairs, first)
        others = [{tuple(answer) for _, answer in more} for name, more in sides.items()
                  if name != (asked, column) and name[0] == asked]  # fmt: skip
        own = [tuple(answer) for _, answer in pairs]
        one.elsewhere = any(sum(key in keys for key in own) > HELD * len(own) for keys in others)
        found.append(one)
    return found


def _keys(rows: Any, first: int) -> list[str]:
    row = rows[first] if len(rows) else None
    return list(row) if isinstance(row, Mapping) else []


def _columns(pipeline: Pipeline, names: Sequence[str]) -> list[str]:
    """Return the columns that hold prompts and answers, in one of the forms that are known."""
    kind = objective_of(pipeline).name
    forms = [*FORMS, ("messages",)]
    forms += [("input_ids", "labels"), ("input_ids", "completion_mask")] * (kind in KINDS)
    wanted = {name for form in forms if set(form) <= set(names) for name in form}
    return [name for name in names if name in wanted]


_Sides = dict[tuple[str, str], list[tuple[list[Any], list[Any]]]]


def _sides(pipeline: Pipeline, rows: Sequence[Mapping[str, Any]]) -> _Sides:
    """Return prompts and answers of each form that all rows have."""
    found: _Sides = {}
    if not rows:
        return found
    for form in FORMS:
        if found and form[0].startswith("prompt_"):
            break  # the same, tokenized
        if form[0] in rows[0] and form[1] in rows[0]:
            parts = [(_items(row.get(form[0])), _items(row.get(form[1]))) for row in rows]
            if any(answer for _, answer in parts):
                found[form] = parts
    kind = objective_of(pipeline).name
    if not found and kind in KINDS and {"input_ids", "labels"} <= rows[0].keys():
        cut = _by_labels if kind == CAUSAL_LM else _by_columns
        found["input_ids", "labels"] = [cut(row) for row in rows]
    elif not found and kind == CAUSAL_LM and {"input_ids", "completion_mask"} <= rows[0].keys():
        found["input_ids", "completion_mask"] = [_by_mask(row) for row in rows]
    elif not found and "messages" in rows[0]:
        found["messages", "messages"] = [_by_roles(row["messages"]) for row in rows]
    return {form: parts for form, parts in found.items() if any(a and q for q, a in parts)}


def _items(value: Any) -> list[Any]:
    """Return words of a text, the words of messages, or token ids; nothing for anything else."""
    if isinstance(value, str):
        return _WORD.findall(value.lower())
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        return []
    if all(isinstance(one, Mapping) for one in value):
        return [word for one in value for word in _items(one.get("content"))]
    return list(value) if all(isinstance(one, int) for one in value) else []


def _by_labels(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    ids, labels = _items(row["input_ids"]), _items(row["labels"])
    start = next((k for k, label in enumerate(labels) if label != IGNORED), len(labels))
    return ids[:start], [label for label in labels if label != IGNORED]


def _by_columns(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    return _items(row["input_ids"]), [one for one in _items(row["labels"]) if one != IGNORED]


def _by_mask(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    ids, mask = _items(row["input_ids"]), _items(row["completion_mask"])
    start = next((k for k, own in enumerate(mask) if own), len(mask))
    return ids[:start], ids[start:]


def _by_roles(messages: Any) -> tuple[list[Any], list[Any]]:
    """Return the words before the first answer, and those of it."""
    if not isinstance(messages, list | tuple):
        return [], []
    roles = [one.get("role") if isinstance(one, Mapping) else None for one in messages]
    if "assistant" not in roles:
        return [], []
    at = roles.index("assistant")
    return _items(messages[:at]), _items(messages[at : at + 1])


def _held(one: Shifted, pairs: Sequence[tuple[list[Any], list[Any]]], first: int) -> Shifted:
    """Count whose prompts the answers share most with."""
    prompts = [prompt for prompt, _ in pairs]
    times = Counter(item for prompt in prompts for item in set(prompt))
    most = max(1, int(RARE * len(prompts)))
    weights = {item: log(len(prompts) / n) for item, n in times.items() if n <= most}
    rare = [frozenset(prompt) & weights.keys() for prompt in prompts]
    texts = [_text(prompt) for prompt in prompts]
    by: Counter[int] = Counter()
    examples: dict[int, int] = {}
    for k, (_, answer) in enumerate(pairs):
        sought, said = frozenset(answer) & weights.keys(), _text(answer)
        if not sought:
            continue
        scores = {
            other - k: sum(weights[item] for item in sought & rare[other])
            for other in _near(k, len(pairs))
            if other == k or not _goes_on(rare[k], rare[other], said, texts[other])
        }
        best = max(scores.values(), default=0.0)
        places = [place for place, score in scores.items() if score == best]
        if best <= 0 or len(places) > 1:
            continue
        one.rows += 1
        by[places[0]] += 1
        examples.setdefault(places[0], first + k)
    one.own = by.pop(0, 0)
    if by:
        one.by, one.others = by.most_common(1)[0]
        one.example = examples[one.by]
    return one


def _near(k: int, count: int) -> Iterator[int]:
    yield from range(max(0, k - NEAR), min(count, k + NEAR + 1))


def _text(items: Sequence[Any]) -> str:
    return f" {' '.join(map(str, items))} "


def _goes_on(own: frozenset[Any], other: frozenset[Any], answer: str, text: str) -> bool:
    """Return whether another prompt holds the answer, or much of the row's own prompt."""
    return answer in text or len(own & other) >= HELD * max(1, len(own))
