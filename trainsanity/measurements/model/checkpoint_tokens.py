"""Tokens of the tokenizer that lies beside a checkpoint's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANY = 0.1
"""Share of ids from which these are another vocabulary's.  Chosen between the one or two reserved
tokens that people give a name of their own, and the nearly all of a vocabulary made anew."""


def tokens_of(folder: Path) -> dict[int, str] | None:
    """Return the tokens of a checkpoint's tokenizer by id; None if it has no file of them."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {int(one["id"]): str(one["content"]) for one in document.get("added_tokens", ())}
        vocabulary = document.get("model", {}).get("vocab", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    if isinstance(vocabulary, list):  # Unigram: tokens with their scores
        vocabulary = {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    if isinstance(vocabulary, dict):
        # An ordinary token that was made a special one is not new.
        found |= {int(i): str(token) for token, i in vocabulary.items()}
    return found


def has_another_vocabulary(tokenizer: Any, folder: Path) -> bool:
    """Return whether many ids are other tokens than in the tokenizer beside the checkpoint."""
    before = tokens_of(folder)
    if not before or not hasattr(tokenizer, "get_vocab"):
        return False
    here = {int(i): str(token) for token, i in tokenizer.get_vocab().items()}
    others = sum(here.get(i, token) != token for i, token in before.items())
    return others >= MANY * len(before)
