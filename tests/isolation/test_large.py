"""Vocabularies and the like: copied once, compared each time, put back where they changed."""

from __future__ import annotations

from typing import Any

import pytest

from trainsanity.isolation.held import MANY
from trainsanity.isolation.large import Large
from trainsanity.isolation.rewind import Rewind

WORDS = [f"word {k}" for k in range(MANY + 1)]


class Tokenizer:
    """Holds what one of 150,000 tokens does."""

    def __init__(self) -> None:
        self.vocab = {word: k for k, word in enumerate(WORDS)}
        self.merges = [(word, "s") for word in WORDS]
        self.words = [*WORDS]


def learns(one: Tokenizer) -> None:
    one.vocab["new"] = len(one.vocab)


def renumbers(one: Tokenizer) -> None:
    one.vocab[WORDS[7]] = 8


def loses(one: Tokenizer) -> None:
    del one.words[3]


def rewrites(one: Tokenizer) -> None:
    one.words[3], one.merges[4] = "other", ("a", "b")


def clears(one: Tokenizer) -> None:
    one.vocab.clear()
    one.merges.clear()


def puts_an_object_in(one: Tokenizer) -> None:
    one.words[3] = object()  # type: ignore[call-overload]


@pytest.mark.parametrize("change", [learns, renumbers, loses, rewrites, clears, puts_an_object_in])
def test_what_was_changed_is_put_back_in_every_walk(change: Any) -> None:
    one, large = Tokenizer(), Large()
    parts = one.vocab, one.merges, one.words
    for _ in range(2):
        noted = Rewind([("tokenizer", one)], set(), large=large)
        change(one)
        assert vars(one) != vars(Tokenizer())
        assert noted.restore() == []
        assert vars(one) == vars(Tokenizer())
        assert [one.vocab, one.merges, one.words] == [*parts]
        assert all(now is then for now, then in zip(vars(one).values(), parts, strict=True))


def test_what_its_owner_changes_between_two_walks_stays() -> None:
    one, large = Tokenizer(), Large()
    Rewind([("tokenizer", one)], set(), large=large).restore()
    learns(one)
    noted = Rewind([("tokenizer", one)], set(), large=large)
    renumbers(one)
    noted.restore()
    assert one.vocab == {**Tokenizer().vocab, "new": len(WORDS)}


def test_a_copy_serves_until_it_is_no_longer_current() -> None:
    one, large = Tokenizer(), Large()
    first = large.copied(one.vocab)
    assert first is not None
    assert large.copied(one.vocab) is first
    learns(one)
    assert large.copied(one.vocab) is not first


@pytest.mark.parametrize("odd", [object(), ("a", [1]), True, 0.5])
def test_what_holds_more_than_words_and_numbers_is_compared_by_identity(odd: Any) -> None:
    held = [*WORDS, odd]
    assert Large().copied(held) is None
    noted = Rewind([("held", held)], set())
    held[-1] = 1 if odd is True else "other"
    noted.restore()
    assert held[-1] is odd
