"""TS102 tokenizer.pad_is_not_eos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.data.shared_pad import SharedPad
from trainsanity.objectives.preference import POLICY, PREFERENCE
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS102",
    "tokenizer.pad_is_not_eos",
    needs=("tokenizer",),
    requires=("tokenizer.pad_is_the_checkpoints",),
    rules_out="PAD / EOS",
)
def pad_is_not_eos(pipeline: Pipeline, shared_pad: SharedPad) -> Iterator[Measured | Finding]:
    """PAD and EOS are different tokens.

    What it checks: ``tokenizer.pad_token_id`` against ``tokenizer.eos_token_id``; and if they are
    the same, whether a row holds that id as text or as a target.

    Why it matters: collators for language models mask labels wherever the id is PAD, so a shared
    id means that the end of a text is never learnt; heads that pool at the last token that is not
    PAD read one token too early in every text that ends with EOS.  Where no row holds EOS and no
    label is EOS, nothing of that happens in this run, and the finding is a warning: it begins to
    matter when somebody adds EOS to the rows.  It is a warning, too, where the collator goes by the
    rows' lengths, so that each EOS of theirs is attended and a target; what is left of the harm is
    that an embedding whose ``padding_idx`` is that id gives it no gradient.  And where answers are
    compared or rewarded: masks of completions are made by position, and
    gradient.none_after_the_end looks.

    How it is measured: an exact comparison of two ids.  EOS is counted in all rows of training and
    evaluation data, at attended places, and in their labels if these are tokens.  In rows without a
    mask EOS at an end counts as text: it cannot be told from padding.  For a language model 64 rows
    are collated, and the batches' masks and labels are read where the rows have EOS.  The finding
    is a failure where the rows cannot be read.

    How to fix: give PAD a token that occurs in no text, one that the vocabulary has spare (a
    reserved or fill-in-the-middle token) before adding a new one, and set
    ``model.config.pad_token_id`` to it.

    Known false alarms: rows that hold EOS and are classified by a model that goes by the attention
    mask alone.  Name the check in expected_failures with that reason.

    References: huggingface/transformers#23530, huggingface/trl#976.
    """
    tokenizer = pipeline.tokenizer
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    if pad is None:
        raise Skip("the tokenizer has no PAD")
    if pad == eos:
        said = f"an end of text cannot be told from padding; {shared_pad.held}"
        if apart := shared_pad.told_apart:
            said = f"in all {apart:,} collated rows that hold it, it is attended and a target"
        if shared_pad.frozen and not shared_pad.harmless:
            said += "; its embedding gets no gradient, for padding_idx is that id"
        yield Finding(
            f"PAD and EOS are the same token {tokenizer.eos_token!r} (id {eos}): {said}",
            observed=pad,
            expected=f"an id other than {eos}",
            cause="the checkpoint has no PAD of its own, and EOS was taken for it",
            fix="set tokenizer.pad_token to a token that no text contains, "
            "and model.config.pad_token_id to its id",
            severity=Severity.WARNING
            if shared_pad.harmless
            or shared_pad.told_apart
            or objective_of(pipeline).name in (PREFERENCE, POLICY)
            else Severity.FAILURE,
        )
    yield Measured(f"PAD is {pad}, EOS is {eos}", {"pad_token_id": pad, "eos_token_id": eos})
