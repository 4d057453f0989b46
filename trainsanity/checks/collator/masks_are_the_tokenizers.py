"""TS331 collator.masks_are_the_tokenizers."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.masks import Masks
from trainsanity.types import Finding, Measured, Severity, Skip

ENOUGH = 8
"""Hidden places from which on one id in most of them is no chance: where words are drawn at random
from a vocabulary of a hundred, five of eight are the same once in ten million times."""


@check("TS331", "collator.masks_are_the_tokenizers", rules_out="masks of another vocabulary")
def masks_are_the_tokenizers(masks: Masks) -> Iterator[Measured | Finding]:
    """Words are hidden behind the tokenizer's own mask token.

    What it checks: what stands in the places at which a masked language model is to find another
    token than it is given, and whether tokens that frame a text ([CLS], [SEP], [PAD]) are asked
    for.

    Why it matters: 103 is [MASK] in one vocabulary and a word in the next. A model that is trained
    with a word for a mask learns that this word may stand for anything, and has never seen the mask
    that it is asked with later. With the ids of another vocabulary the tokens that are to be spared
    are the wrong ones, too.

    How it is measured: exact, on the batches of the first optimizer step: of the targets whose
    place holds something else, the id that stands in more than half. That it is not
    ``tokenizer.mask_token_id`` is a failure where the rows hold it as a word, else a warning.
    Replacements that are all drawn at random pass. Special tokens among the hidden targets are a
    warning.

    How to fix: take ids from the tokenizer at hand, or its collator::

        # bad
        input_ids[chosen] = 103
        # good
        input_ids[chosen] = tokenizer.mask_token_id

    Known false alarms: a marker of one's own for a mask that is an ordinary word of the rows, too.

    References: https://github.com/jamescalam/transformers.
    """
    if masks.hidden < ENOUGH:
        raise Skip(f"the first step hides fewer than {ENOUGH} targets")
    (most, count), *_ = masks.by.most_common(1)
    name = masks.names[most]
    if most != masks.mask and 2 * count > masks.hidden:
        word = most in masks.words
        yield Finding(
            f"{count} of {masks.hidden} hidden targets have {name!r} ({most}) in their place; the "
            f"tokenizer's mask token is {masks.names[masks.mask]!r} ({masks.mask})",
            observed=most,
            expected=masks.mask,
            where="input_ids, where labels ask for another token",
            cause="the id of the mask is that of another vocabulary: here it is a word of the rows"
            if word
            else "the id of the mask is not the tokenizer's",
            fix="input_ids[chosen] = tokenizer.mask_token_id, or DataCollatorForLanguageModeling",
            severity=Severity.FAILURE if word else Severity.WARNING,
        )
    if masks.special:
        names = ", ".join(repr(masks.names[one]) for one, _ in masks.special.most_common())
        yield Finding(
            f"{masks.special.total()} of {masks.hidden} hidden targets are special tokens: {names}",
            observed=masks.special.total(),
            expected=0,
            where="labels",
            cause="tokens are chosen without sparing those that frame a text, or by the ids of "
            "another vocabulary",
            fix="spare tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)",
            severity=Severity.WARNING,
        )
    held = masks.by[masks.mask]
    yield Measured(
        f"{masks.hidden} of {masks.targets} targets of the first step are hidden, {held} of them "
        f"behind {masks.names[masks.mask]!r}; {masks.special.total()} are special tokens",
        {"hidden": masks.hidden, "masked": held, "special": masks.special.total()},
    )
