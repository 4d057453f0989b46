"""TS538 loss.next_token_is_unseen."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.next_tokens import NextTokens
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS538",
    "loss.next_token_is_unseen",
    cost=Cost.STEP,
    requires=("loss.finite",),
    explained_by=("model.causal",),
    rules_out="sight of what is predicted",
)
def next_token_is_unseen(next_tokens: NextTokens) -> Iterator[Measured | Finding]:
    """An output that is to predict the next token does not depend on it.

    What it checks: where the targets of a ``cross_entropy`` are the tokens that follow each of the
    model's input, whether the outputs before a token change with it.

    Why it matters: ``nn.TransformerEncoder`` attends to everything unless it is given a causal
    mask. The model reads the answer off its input: the loss goes to nothing, and what is generated
    makes no sense.

    How it is measured: the first call of the model in training is made again, as the step made it,
    in eval mode and in float32 where that can be had, once with another token in the middle of the
    first row. Allowed are four units in the last place of the dtype and the order of float32 sums,
    or four times what one unit in the last place of the weights makes.

    How to fix: give every layer a causal mask::

        # bad
        hidden = encoder(states, src_key_padding_mask=padding)
        # good
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = encoder(states, mask=mask, src_key_padding_mask=padding, is_causal=True)

    Known false alarms: none known. Masked language models have other targets than the next token.

    References: pytorch/tutorials#2478.
    """
    if not within(next_tokens.moved, next_tokens.allowed):
        yield Finding(
            f"outputs before token {next_tokens.place} change with it: greatest difference "
            f"{next_tokens.moved:.3g}, up to {next_tokens.allowed:.2g} allowed; the loss has them "
            "predict the next token, which they see",
            observed=next_tokens.moved,
            expected=next_tokens.allowed,
            where=f"token {next_tokens.place} of the first row",
            cause="attention without a causal mask, or another layer that looks ahead",
            fix="give each attention a causal mask (is_causal=True, or the upper triangle masked)",
        )
    yield Measured(
        f"another token at {next_tokens.place} changes outputs before it by "
        f"{next_tokens.moved:.2g}, up to {next_tokens.allowed:.2g} allowed, and from it on by "
        f"{next_tokens.behind:.3g}"
        f"{next_tokens.precision}",
        next_tokens.moved,
        next_tokens.allowed,
    )
