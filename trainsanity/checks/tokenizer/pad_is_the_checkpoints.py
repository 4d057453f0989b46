"""TS101 tokenizer.pad_is_the_checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.special_tokens import SpecialTokens
from trainsanity.types import Finding, Measured, Skip


@check("TS101", "tokenizer.pad_is_the_checkpoints", needs=("tokenizer",), rules_out="PAD / EOS")
def pad_is_the_checkpoints(special_tokens: SpecialTokens) -> Iterator[Measured | Finding]:
    """PAD is the token that the checkpoint was published with.

    What it checks: the tokenizer's ``pad_token`` against ``pad_token`` in the
    ``tokenizer_config.json`` that it was loaded from.

    Why it matters: ``tokenizer.pad_token = tokenizer.eos_token`` is copied from scripts for models
    without a PAD.  Where the checkpoint has one, the line throws it away, and from then on every
    end-of-text token looks like padding to collators and to pooling heads.

    How it is measured: an exact comparison of two strings.  No tolerance.

    How to fix: delete the assignment.

    Known false alarms: a PAD chosen on purpose, for example one that was added with its own
    embedding.  Name the check in expected_failures with that reason.  Skipped when the checkpoint's
    files are not on this machine or declare no PAD.

    References: the incident in which Qwen3-4B's ``<|endoftext|>`` was replaced by ``<|im_end|>``;
    huggingface/transformers#23530 for what it does to language-model collators.
    """
    declared = special_tokens.checkpoint_pad
    if declared is None:
        raise Skip(f"no pad_token is declared at {special_tokens.checkpoint or 'the checkpoint'}")
    if special_tokens.pad_token != declared:
        yield Finding(
            f"pad_token is {special_tokens.pad_token!r}, "
            f"but the checkpoint's own is {declared!r}: it was overwritten after loading",
            observed=special_tokens.pad_token,
            expected=declared,
            where=special_tokens.checkpoint,
            cause="a line such as tokenizer.pad_token = tokenizer.eos_token",
            fix="delete that line: this checkpoint has a PAD of its own",
        )
    yield Measured(
        f"PAD is {special_tokens.pad_token!r}, the checkpoint declares {declared!r}",
        special_tokens.pad_token,
        declared,
    )
