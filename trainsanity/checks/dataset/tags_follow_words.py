"""TS244 dataset.tags_follow_words."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import is_indexable, plain_values
from trainsanity.isolation.snapshot import preserved
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 64
ENOUGH = 4
"""Rows in which the two readings of the labels differ."""

Place = tuple[int, int]
"""A position among the tokens, and the number of the word whose tag is told there."""


@dataclass(frozen=True)
class Tagged:
    """A row of words.

    Attributes:
        tags: one a word.
        labels: one a token.
        words: the word of each token; None for special tokens.
    """

    tags: list[Any]
    labels: list[int]
    words: list[int | None]

    @property
    def by_word(self) -> list[Place]:
        """The first token of each word, with the word."""
        return [
            (place, word)
            for place, word in enumerate(self.words)
            if word is not None
            and (not place or word != self.words[place - 1])
            and self.labels[place] != IGNORED
        ]

    def by_token(self, start: int) -> list[Place]:
        """Each token with the word of the same number, counted from a start."""
        return [
            (place, place - start)
            for place, label in enumerate(self.labels)
            if label != IGNORED and 0 <= place - start < len(self.tags)
        ]


@check(
    "TS244",
    "dataset.tags_follow_words",
    needs=("train_dataset", "tokenizer"),
    rules_out="tags that are not aligned",
)
def tags_follow_words(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Labels of tokens are those of the tokens' own words.

    What it checks: rows that have a list of words and a list of as many tags beside ids and labels:
    whether the labels are those tags by the word that a token belongs to.

    Why it matters: special tokens and words of several pieces move the tags against the text. Most
    words are trained towards the tag of another one; the loss falls anyway, since most tags are
    "O".

    How it is measured: words are tokenized again, and ``word_ids()`` tells whose token is whose. A
    label has to be one function of its word's tag (a mapping of names, B- and I-, or ignored
    pieces are all fine). It is a failure only if that is not so, and the labels are one function of
    the tags counted by token, from the first token or from the first that is not special, in all of
    up to 64 rows.

    How to fix: let ``word_ids()`` say which word a token belongs to::

        # bad
        labels = tags + [-100] * (len(ids) - len(tags))
        # good
        labels = [-100 if word is None else tags[word] for word in encoding.word_ids()]

    Known false alarms: none known.

    References: google-research/bert#560.
    """
    rows = _rows(pipeline)
    if not rows:
        raise Skip("rows have no words and tags beside their ids and labels")
    missed = _missed(rows, lambda row: row.by_word)
    told, odd = sum(len(row.by_word) for row in rows), sum(missed)
    if odd:
        for start in (0, 1):
            others = _missed(rows, functools.partial(Tagged.by_token, start=start))
            if not any(others) and sum(map(bool, missed)) >= ENOUGH:
                yield Finding(
                    f"{odd} of {told} labels are not the tag of the word that their token belongs "
                    "to: the tags were laid along the tokens, one each",
                    observed=odd,
                    expected=0,
                    where="labels",
                    cause="tags of words are not aligned with the pieces of words: special tokens "
                    "and further pieces move them",
                    fix="labels = [-100 if word is None else tags[word] for word in "
                    "encoding.word_ids()]",
                )
                break
    yield Measured(
        f"{odd} of {told} labels are another one than their word's tag mostly has", odd, None
    )


def _missed(rows: list[Tagged], places: Callable[[Tagged], list[Place]]) -> list[int]:
    """Return how many labels of each row are not what their tag mostly has for a label."""
    table: dict[Any, Counter[int]] = defaultdict(Counter)
    for row in rows:
        for place, word in places(row):
            table[row.tags[word]][row.labels[place]] += 1
    usual = {tag: labels.most_common(1)[0][0] for tag, labels in table.items()}
    return [
        sum(row.labels[place] != usual[row.tags[word]] for place, word in places(row))
        for row in rows
    ]


def _rows(pipeline: Pipeline) -> list[Tagged]:
    """Return the first rows whose ids are those of their words."""
    data, tokenizer = pipeline.train_dataset, pipeline.tokenizer
    if not is_indexable(data) or not getattr(tokenizer, "is_fast", False):
        return []
    found: list[Tagged] = []
    with preserved(pipeline):
        for k in range(min(ROWS, len(data))):
            row = data[k]
            made = _tagged(tokenizer, row) if isinstance(row, Mapping) else None
            if made is not None:
                found.append(made)
            elif k >= ENOUGH and not found:
                break
    return found


def _tagged(tokenizer: Any, row: Mapping[str, Any]) -> Tagged | None:
    ids, labels = (plain_values(row.get(name)) for name in ("input_ids", "labels"))
    if not (isinstance(ids, list) and isinstance(labels, list) and 2 < len(ids) == len(labels)):
        return None
    lists = {
        name: plain_values(value)
        for name, value in row.items()
        if name not in ("input_ids", "labels") and "mask" not in name and "type" not in name
    }
    words = next((value for value in lists.values() if _all(value, str)), None)
    if words is None:
        return None
    tags = next(
        (
            value
            for value in lists.values()
            if value is not words and _all(value, str | int) and len(value) == len(words)
        ),
        None,
    )
    if tags is None or not _all(labels, int):
        return None
    again = tokenizer(words, is_split_into_words=True)
    # Of a row that was cut the last token is a special one again.
    if ids[:-1] != list(again["input_ids"])[: len(ids) - 1]:
        return None
    owners = again.word_ids()[: len(ids)]
    if ids[-1] != again["input_ids"][len(ids) - 1]:
        owners[-1] = None
    return Tagged(tags, labels, owners)


def _all(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, kind) for one in value)
