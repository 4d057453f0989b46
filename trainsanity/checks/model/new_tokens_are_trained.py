"""TS435 model.new_tokens_are_trained."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.adapter_base import NewTokens
from trainsanity.types import Finding, Measured, Severity


@check("TS435", "model.new_tokens_are_trained", needs=("tokenizer",), rules_out="new tokens")
def new_tokens_are_trained(new_tokens: NewTokens) -> Iterator[Measured | Finding]:
    """Embeddings of tokens that were added to the vocabulary are trained.

    What it checks: that the tokens which the checkpoint's tokenizer does not have, and the first
    rows hold, have a row of the input embedding that is trained: the embedding itself, a copy in
    `modules_to_save`, an adapter on it, or `trainable_token_indices` with that token. The same is
    asked of tokens whose row is zero, as those of a base model's chat template may be.

    Why it matters: the row of a new token is drawn at random, or is the mean of all others. If the
    embedding is frozen, as under LoRA on attention, it stays so: the model reads noise wherever the
    token stands. If the output layer is frozen, it does not learn to write it. Rows of zeros are
    alike: the model cannot tell these tokens from each other.

    How it is measured: exact: the checkpoint's tokenizer.json (or the size of its embedding)
    against the tokenizer, which parameters are trainable, and which rows are as good as zero beside
    the usual one; padding aside.

    How to fix: `trainable_token_indices`, or the embeddings in `modules_to_save`.

    Bad::

        model.resize_token_embeddings(len(tokenizer))
        get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))

    Good::

        new = tokenizer.convert_tokens_to_ids(["<call>", "</call>"])
        get_peft_model(model, LoraConfig(..., trainable_token_indices=new))

    Known false alarms: rows of new tokens that were given a meaning by hand. A frozen output layer
    alone is a warning: a token that only the user writes need not be written by the model.

    References: unslothai/unsloth#2188, unslothai/unsloth#915.
    """
    tokens = new_tokens.tokens
    frozen = {i: token for i, token in tokens.items() if i not in new_tokens.trained}
    unwritten = (
        {}
        if new_tokens.output is None or frozen
        else {i: token for i, token in tokens.items() if i not in new_tokens.output}
    )
    for left, layer, severity in (
        (frozen, "embedding", Severity.FAILURE),
        (unwritten, "output layer", Severity.WARNING),
    ):
        if left:
            names = ", ".join(f"{token} ({i})" for i, token in list(left.items())[:4])
            yield Finding(
                f"{len(left)} of {len(tokens)} new tokens in the rows have a frozen {layer}: "
                f"{names} stay as they were drawn ({new_tokens.since})",
                observed=len(left),
                expected=0,
                where=names,
                cause=f"tokens were added, or the checkpoint had no use for them, and the {layer} "
                "is not among what is trained",
                fix=f"LoraConfig(trainable_token_indices={sorted(left)[:4]}), or "
                "modules_to_save with the embeddings",
                severity=severity,
            )
    output = "" if new_tokens.output is None else f", of {len(new_tokens.output)} in the output"
    yield Measured(
        f"{len(new_tokens.trained)} of {len(tokens)} new tokens in the rows have a trained row in "
        f"the input embedding{output} ({new_tokens.since})",
        len(new_tokens.trained),
        len(tokens),
    )
