"""TS217 dataset.targets_end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.ends import ends_of
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ENOUGH = 4
"""Rows of different lengths from which on it is no chance that none of them ends."""


@check(
    "TS217",
    "dataset.targets_end",
    needs=("train_dataset",),
    rules_out="targets without an end",
)
def targets_end(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The targets of an encoder-decoder end with the token that ends generation.

    What it checks: the last two labels that are counted in each row of the first step, against
    the tokens that end generation (``generation_config.eos_token_id``).  Two, since mBART puts the
    code of the language behind the end.

    Why it matters: the model learns every word of the answers and never that they end: it goes on
    generating until ``max_length``.

    How it is measured: exact, on the labels that the model is given.  Rows of the longest length
    may have been cut and do not count.  A failure only if no row ends, and there are four or more.

    How to fix: keep the special tokens of targets::

        # bad
        tokenizer(text_target=text, add_special_tokens=False)
        # good
        tokenizer(text_target=text)

    Known false alarms: targets of one fixed length, whose end is known without a token.

    References: huggingface/transformers#5142.
    """
    import torch

    config = getattr(pipeline.model, "config", None)
    if not getattr(config, "is_encoder_decoder", False):
        raise Skip("the model is no encoder-decoder")
    ends = ends_of(pipeline.model)
    if not ends:
        raise Skip("no token ends generation")
    last: list[tuple[int, list[int]]] = []
    for micro in batch:
        labels = micro.inputs.get("labels")
        if not torch.is_tensor(labels) or labels.dim() != 2 or labels.is_floating_point():
            raise Skip("the labels are no sequences of tokens")
        for row in labels.tolist():
            counted = [y for y in row if y not in (IGNORED, _padding(pipeline, ends))]
            if counted:
                last.append((len(counted), counted[-2:]))
    longest = max((length for length, _ in last), default=0)
    whole = [length for length, _ in last if length < longest]
    # The code of a language may stand behind the end, as mBART's does: generation is over by then.
    ended = sum(not ends.isdisjoint(tokens) for _, tokens in last)
    if not ended and len(whole) >= ENOUGH:
        yield Finding(
            f"none of {len(last)} targets ends with a token that stops generation (eos, id "
            f"{', '.join(map(str, sorted(ends)))})",
            observed=0,
            expected=len(last),
            where="labels",
            cause="the targets are encoded without special tokens, or the end is replaced by -100 "
            "with the padding",
            fix="tokenize targets with their special tokens, so that each ends with eos",
        )
    yield Measured(
        f"{ended} of {len(last)} targets of step 1 end with a token that ends generation",
        ended,
        len(last),
    )


def _padding(pipeline: Pipeline, ends: frozenset[int]) -> int:
    """Return the padding's id, which is no target; one that ends a text is one."""
    pad = getattr(pipeline.model.config, "pad_token_id", None)
    return IGNORED if pad is None or pad in ends else int(pad)
