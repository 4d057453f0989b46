"""Tokens with which generation ends, and with which targets are padded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def ends_of(model: Any) -> frozenset[int]:
    """Return the ids that end generation, by the model's settings."""
    ends: set[Any] = set()
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        value = getattr(config, "eos_token_id", None)
        ends |= set(value) if isinstance(value, list | tuple) else {value}
    return frozenset(end for end in ends if isinstance(end, int))


def pad_of(pipeline: Pipeline) -> int | None:
    """Return the padding's id: the tokenizer's, or without one the model's."""
    for one in (pipeline.tokenizer, getattr(pipeline.model, "config", None)):
        pad = getattr(one, "pad_token_id", None)
        if isinstance(pad, int):
            return pad
    return None
