"""TS546 loss.predicts_the_next_token."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.next_tokens import Aimed
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS546",
    "loss.predicts_the_next_token",
    cost=Cost.STEP,
    requires=("loss.finite",),
    explained_by=("collator.labels_aligned", "model.causal"),
    rules_out="shift of the targets",
)
def predicts_the_next_token(aimed: Aimed) -> Iterator[Measured | Finding]:
    """A decoder's outputs are held against the token that follows, not against what they saw.

    What it checks: which token the loss pulls up, or down, at each output of a decoder: the one
    that was given at the same place, the next, or the one after.

    Why it matters: a loss written by hand has to shift logits and labels against each other.  Left
    out, the model learns to repeat its input: the loss is soon nothing, and no answer's
    probability has moved.  Shifted twice, in the data and in the loss, it learns to leave out
    every second token.

    How it is measured: the gradient of a log-probability at the logits has one sign at its own
    token and the other at all others, so that the largest element names the target, whatever the
    loss is made of: a cross entropy, weighted or smoothed, the log-ratios of DPO or PPO.  Counted
    are outputs of the first step where this element has 40 % of the gradient at least (a half,
    exactly, without smoothing) and the three tokens differ; 95 % of them have to agree.  Where
    outputs are held against their own tokens, one token is changed and the model is asked again:
    a model that shifts its input inside does not see it there, and one that looks at both sides,
    as masked language models do, is not judged.

    How to fix: hold the logits of each place against the label of the next.

    Bad::

        logps = logits.log_softmax(-1).gather(-1, ids[..., None])

    Good::

        logps = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])

    Known false alarms: heads that predict the token after the next on purpose, if their logits are
    the model's ``logits``.

    References: huggingface/transformers#404, wyf3/llm_related#33.
    """
    aims, asked = aimed.aims, aimed.asked
    if asked is not None and not within(asked.moved, asked.allowed):
        raise Skip("outputs are held against their own tokens by a model that looks at both sides")
    if asked is not None and not within(asked.at, asked.allowed):
        yield Finding(
            f"{aims.own} of {aims.clear} outputs are held against the token that is given at their "
            "own place: the model learns to repeat its input",
            observed=aims.own,
            expected=0,
            cause="logits and labels are not shifted against each other: the logits of a place are "
            "those of the next token",
            fix="hold logits[:, :-1] against labels[:, 1:]",
        )
    if aims.ahead == 2:
        yield Finding(
            f"{aims.second} of {aims.clear} outputs are held against the token after the next: "
            "labels are shifted twice",
            observed=aims.second,
            expected=0,
            cause="the labels are the next tokens already, and the loss shifts them again",
            fix="leave the labels as the input's ids, or hold logits against them unshifted",
        )
    yield Measured(
        f"of {aims.clear} outputs {aims.following} are held against the next token, {aims.own} "
        f"against their own and {aims.second} against the one after the next",
        aims.following,
        aims.clear,
    )
