"""TS517 loss.padding_does_not_matter."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Skip

UNLABELLED = repair("labels[attention_mask == 0] = -100", "padding_unlabelled")


@check(
    "TS517",
    "loss.padding_does_not_matter",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="padding in the loss",
)
def padding_does_not_matter(policy: Policy) -> Iterator[Measured | Finding]:
    """Token ids at padded positions do not change loss and gradient.

    What it checks: loss and gradient of a language model's first micro-batch against those of the
    same batch with other token ids wherever its mask says padding.  Of models of other kinds whose
    batch has several sequences a row, as `chosen_ids` and `chosen_mask`, the loss against that of
    the same batch with more padding on the right.

    Why it matters: a log-probability that is summed over padding, or labels that are copied from
    padded input_ids, train the model to write <pad>; the same row then has another loss beside
    longer rows.  A reward that is read in the last column is the padding's, in all but the longest
    row.

    How it is measured: the user's own loss is asked twice, every layer in eval mode, and the
    gradient twice with the same random numbers. Where policy and reference are the same a
    preference loss is a constant, and only the gradient shows it. Allowed are four units in the
    last place of the coarsest dtype in use and the order of float32 sums.

    How to fix: bad: labels = input_ids; (logps * ones).sum(1). Good:

        labels = input_ids.masked_fill(attention_mask == 0, -100)
        logps = (token_logps * completion_mask[:, 1:]).sum(1)

        values.gather(1, mask.sum(1, keepdim=True) - 1)  # and not values[:, -1]

    Known false alarms: none known. Models that look for the padding's id (heads on the last token)
    are not asked with other ids.

    References: huggingface/trl#1625, 0xallam/Direct-Preference-Optimization#4,
    vwxyzjn/lm-human-preference-details#6.
    """
    before, after = policy.padding
    if not policy.padded or math.isnan(before):
        raise Skip("the first micro-batch has no padding that a mask names, or no language model")
    part = MARGIN * policy.eps + REDUCTIONS
    moved = 0.0 if policy.pulled is None else policy.pulled
    loss = abs(after - before)
    if policy.widened:
        # The width of a product changes the order of its sums.
        allowed = MARGIN * part * max(1.0, abs(before))
        if not within(loss, allowed):
            yield Finding(
                f"{policy.padded} more positions of padding on the right change the loss by "
                f"{loss:.3g}, up to {allowed:.2g} allowed: padding is read",
                observed=after,
                expected=before,
                where="compute_loss",
                cause="a value of each row is read in the last column, which is padding in all but "
                "the longest row, or padding is attended or averaged over",
                fix="read each row at its last real token: "
                "values.gather(1, mask.sum(1, keepdim=True) - 1)",
            )
    # A gradient that cancels has rounding of its own size.
    elif not (within(loss, part * max(1.0, abs(before))) and within(moved, MARGIN * part)):
        yield Finding(
            f"other token ids under the padding change the loss by {loss:.3g} and the gradient by "
            f"{moved:.2%} of itself: padding is counted",
            observed=moved,
            expected=0.0,
            where=f"{policy.padded} positions of padding",
            cause="the padding is among the targets, or in the sum of log-probabilities",
            fix="mask the padding: labels of -100 where attention_mask is 0, and log-probabilities "
            "times a mask that is 0 there",
            repairs=(UNLABELLED,) if policy.labelled else (),
        )
    change = f"{policy.padded} more" if policy.widened else f"other token ids under {policy.padded}"
    pulled = "" if policy.widened else f" and the gradient by {moved:.2g} of itself"
    yield Measured(
        f"{change} positions of padding change the loss by {loss:.3g}{pulled}",
        after if policy.widened else moved,
        before if policy.widened else 0.0,
    )
