"""TS102 tokenizer.pad_is_not_eos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS102",
    "tokenizer.pad_is_not_eos",
    needs=("tokenizer",),
    requires=("tokenizer.pad_is_the_checkpoints",),
    rules_out="PAD / EOS",
)
def pad_is_not_eos(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """PAD and EOS are two tokens.

    What it checks: ``tokenizer.pad_token_id`` against ``tokenizer.eos_token_id``.

    Why it matters: collators for language models mask labels wherever the id is PAD, so a shared
    id means that the end of a text is never learnt; heads that pool at the last token that is not
    PAD read one token too early in every text that ends with EOS.

    How it is measured: an exact comparison of two ids.  No tolerance.

    How to fix: give PAD a token that occurs in no text, one that the vocabulary has spare (a
    reserved or fill-in-the-middle token) before adding a new one, and set
    ``model.config.pad_token_id`` to it.

    Known false alarms: a checkpoint that ships with PAD == EOS, trained on rows without EOS for a
    task that supervises no EOS.  Name the check in expected_failures with that reason.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    tokenizer = pipeline.tokenizer
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    if pad == eos:
        yield Finding(
            f"PAD and EOS are the same token {tokenizer.eos_token!r} (id {eos}): "
            "an end of text cannot be told from padding",
            observed=pad,
            expected=f"an id other than {eos}",
            cause="the checkpoint has no PAD of its own, and EOS was taken for it",
            fix="set tokenizer.pad_token to a token that no text contains, "
            "and model.config.pad_token_id to its id",
        )
    yield Measured(f"PAD {pad} is not EOS {eos}", {"pad_token_id": pad, "eos_token_id": eos})
