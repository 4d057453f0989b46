"""TS516 loss.ratio_is_one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loss._reference import allowed_gap, dropouts, neftune
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS516",
    "loss.ratio_is_one",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="old log-probabilities",
)
def ratio_is_one(pipeline: Pipeline, policy: Policy) -> Iterator[Measured | Finding]:
    """The importance ratio is 1 before the first update.

    What it checks: log-probabilities of the completions that were stored when they were generated
    (old_per_token_logps, old_logps) against those of the policy in the loss of step 1.

    Why it matters: both are of the same weights, so the ratio that PPO, GRPO and RLOO clip is
    exactly 1. Dropout, another temperature or another mask make it noise: tokens are thrown away by
    the clip by chance, and others count for more than their advantage.

    How it is measured: the policy's pass inside the user's own loss is watched. The root mean
    square of the difference over tokens may be rounding: the order of float32 sums, and four units
    in the last place of the coarsest dtype, of that of the log-probabilities.

    How to fix: bad: GRPOConfig(num_iterations=2, disable_dropout=False) with a model that has
    dropout. Good:

        GRPOConfig(num_iterations=2, disable_dropout=True)

    Known false alarms: none known; log-probabilities of a sampler (vLLM) are not compared.

    References: huggingface/trl#3234.
    """
    stored = {name: gaps for name, gaps in policy.stored.items() if "ref" not in name}
    if getattr(pipeline.trainer, "state", None) and pipeline.trainer.state.global_step:
        raise Skip("this Trainer has trained before")
    if not stored:
        raise Skip("the batch brings no old log-probabilities along")
    name, (gap, _) = max(stored.items(), key=lambda one: one[1][0].size)
    allowed = allowed_gap(pipeline, policy, gap)
    if not within(gap.size, allowed):
        sources = [*dropouts(pipeline), *neftune(pipeline)]
        noisy = policy.restless.size > allowed_gap(pipeline, policy, policy.restless)
        yield Finding(
            f"before the first update the log-ratio to {name} is {gap.size:.3g} a token and not 0: "
            f"the ratio is off 1 by {math.expm1(gap.size):.1%}",
            observed=gap.size,
            expected=0.0,
            where=name,
            cause="the policy's forward pass is random: "
            + (" and ".join(sources) or "asked again it differs")
            if noisy
            else "the stored values are of other weights, another temperature or other tokens",
            fix="disable_dropout=True"
            if noisy
            else "compute old and new log-probabilities by one function, at the same weights",
            repairs=(repair("dropout off", "dropout_off"),) if noisy else (),
        )
    yield Measured(
        f"log-ratio of policy and {name} {gap.size:.3g} over {gap.tokens} values; rounding "
        f"explains {allowed:.2g}",
        gap.size,
        0.0,
    )
