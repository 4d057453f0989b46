"""TS512 loss.reference_is_the_policy."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.checks.loss._reference import allowed_gap, dropouts, neftune
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.passes import Gap
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.measurements.step.reference_role import Role
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.preference_losses import fixed_point
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

NEFTUNE_OFF = repair("neftune_noise_alpha = None", "neftune_off")


@check(
    "TS512",
    "loss.reference_is_the_policy",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="reference model",
)
def reference_is_the_policy(
    pipeline: Pipeline, recording: Recording, policy: Policy
) -> Iterator[Measured | Finding]:
    """The reference model's log-probabilities equal the policy's before the first step.

    What it checks: the log-probabilities that the reference gives the tokens of the first
    micro-batch against the policy's, inside the user's own loss; and, where TRL's loss is a
    constant as long as both are the same, whether the first loss is that constant (log 2 for
    sigmoid DPO, 1 / (2 beta) squared for IPO).

    Why it matters: preference training is held to the policy that it starts from. Where the
    reference is another model, or the same one under noise (NEFTune, dropout), implicit rewards are
    not 0 at step 1: the penalty pulls towards other weights, or the log-ratios are noise.

    How it is measured: every pass inside the loss is watched; a reference is what is called so
    (trainer.ref_model, a variable ref_policy of a loop), or TRL's policy with its adapter turned
    off; log-probabilities that were computed before are read from the batch. The root mean square
    of the difference over tokens may be the order of float32 sums, and four units in the last
    place of the coarsest dtype, of that of the log-probabilities. The loss is asked again with
    every layer in eval mode and with other random numbers: that tells noise from other weights.
    Beside TRL's Trainers the loss tells what its reference is for, asked with made-up logits of
    both: one of implicit rewards is a constant wherever both say the same, and has a slope there.
    A teacher, and a model that chooses which tokens count, are not judged.

    How to fix: bad: model = PeftModel.from_pretrained(base, "sft-adapter", is_trainable=True) with
    ref_model=base_again. Good:

        trainer = DPOTrainer(model, ref_model=None, args=args)  # TRL keeps a copy as reference

    and DPOConfig(disable_dropout=True), no neftune_noise_alpha beside an adapter.

    Known false alarms: a run that goes on from a checkpoint of its own. A reference of another
    architecture, or of a checkpoint that is given by another path, is a warning: some mean it. So
    is any other reference in a custom training loop, which may go on with a policy, and one whose
    loss has other terms beside it.

    References: huggingface/trl#1340, unslothai/unsloth-zoo#830, unslothai/unsloth-zoo#832.
    """
    if getattr(pipeline.trainer, "state", None) and pipeline.trainer.state.global_step:
        raise Skip("this Trainer has trained before: its policy has left the reference")
    stored = {name: gaps for name, gaps in policy.stored.items() if "ref" in name}
    gap, quiet, name = policy.gap, policy.quiet, policy.name
    if math.isnan(gap.size) and stored:
        name, (gap, quiet) = next(iter(stored.items()))
    if math.isnan(gap.size):
        raise Skip("no reference was asked about the tokens that the policy was asked about")
    if policy.role in (Role.TEACHER, Role.CHOICE):
        raise Skip(
            f"the loss takes {name} {policy.role.value}, and not as a reference of implicit rewards"
        )
    allowed = allowed_gap(pipeline, policy, gap)
    right = fixed_point(pipeline.trainer)
    if not within(gap.size, allowed):
        yield _apart(pipeline, policy, name, gap, quiet)
    elif right is not None and recording.own.losses:
        loss = recording.own.losses[0]
        spread = (MARGIN * policy.eps + REDUCTIONS) * max(1.0, abs(right)) + _slack(
            pipeline, gap, right
        )
        if not within(abs(loss - right), spread):
            yield Finding(
                f"policy and reference are the same, and the loss is {loss:.4f}: at implicit "
                f"rewards of 0 it is {right:.4f}",
                observed=loss,
                expected=right,
                factor=loss / right if right else None,
                where="step 1",
                cause="the formula of the loss differs from the loss_type that is set",
                fix="compare compute_loss with the formula of args.loss_type at log-ratios of 0",
            )
    yield Measured(
        f"log-probabilities of policy and reference ({name}) differ by {gap.size:.3g} over "
        f"{gap.tokens} tokens, by {gap.total:.3g} in a row at the most; rounding explains "
        f"{allowed:.2g}",
        gap.size,
        0.0,
    )


def _slack(pipeline: Pipeline, gap: Gap, right: float) -> float:
    """Return how far a difference within rounding moves the loss, at the most."""
    beta = float(getattr(pipeline.args, "beta", 0.0) or 0.0)
    return 2 * (beta + 2 * math.sqrt(abs(right))) * gap.total


def _apart(pipeline: Pipeline, policy: Policy, name: str, gap: Gap, quiet: Gap) -> Finding:
    allowed = allowed_gap(pipeline, policy, gap)
    said = (
        f"before step 1 the reference ({name}) differs from the policy by {gap.size:.3g} in the "
        f"log-probability of a token, {gap.total:.3g} in a row at the most"
    )
    expected = "the policy's own log-probabilities"
    random = allowed_gap(pipeline, policy, policy.noise)
    unknown = math.isnan(policy.noise.size)
    noisy = bool(dropouts(pipeline)) if unknown else policy.noise.size > random
    alike = within(quiet.size, allowed) or (math.isnan(policy.gap.size) and noisy)
    if alike and noisy:
        sources = [*neftune(pipeline), *dropouts(pipeline)]
        return Finding(
            f"{said}: the reference is asked under noise, implicit rewards are random",
            observed=gap.size,
            expected=expected,
            where=name,
            cause=f"noise in the reference: {' and '.join(sources)}"
            if sources
            else "the reference's forward pass is random: asked again it says something else",
            fix="turn the noise off where the reference is asked: disable_dropout=True, "
            "ref_model.eval(), and no neftune_noise_alpha beside an adapter",
            repairs=(
                *((NEFTUNE_OFF,) if neftune(pipeline) else ()),
                repair("ref_model.eval()", "teachers_quiet"),
                *((repair("dropout off", "dropout_off"),) if dropouts(pipeline) else ()),
            ),
        )
    if alike:
        return Finding(
            f"{said}: the policy is under noise and the reference is not",
            observed=gap.size,
            expected=expected,
            where=name,
            cause="dropout or NEFTune in the policy: with both off they agree",
            fix="disable_dropout=True: implicit rewards are then 0 at step 1",
            severity=Severity.WARNING,
        )
    cause, meant = _other_weights(pipeline, policy)
    rewards = policy.declared or policy.role is Role.REWARD
    # Nothing says that a loop of the user's own begins here: it may go on with a policy.
    meant = meant or pipeline.trainer is None or not rewards
    return Finding(
        f"{said}: implicit rewards are not 0, the reference is another model than the policy"
        if rewards
        else f"{said}: the reference is another model than the policy",
        observed=gap.size,
        expected=expected,
        where=name,
        cause=cause,
        fix="leave ref_model out, so that TRL keeps the policy itself as its reference, or load "
        "the reference from the checkpoint that the policy starts from"
        if rewards
        else "nothing, if that is meant; otherwise load the reference from the checkpoint that the "
        "policy starts from",
        severity=Severity.WARNING if meant else Severity.FAILURE,
    )


def _other_weights(pipeline: Pipeline, policy: Policy) -> tuple[str, bool]:
    """Return why they differ, and whether it is certain that it is meant."""
    other = policy.reference
    if other is None:
        return (
            "the model without its adapter, or what was computed before, is not what the policy "
            "starts from",
            False,
        )
    mine: Any = pipeline.model
    adapted = hasattr(mine, "get_base_model")
    base = mine.get_base_model() if adapted else mine
    theirs = other.get_base_model() if hasattr(other, "get_base_model") else other
    if type(base) is not type(theirs) or _shape(base) != _shape(theirs):
        return f"the reference is a {type(theirs).__name__} of another size or architecture", True
    if adapted and not hasattr(other, "get_base_model"):
        return (
            "the policy starts from an adapter that was trained before; the reference is the base "
            "model without it",
            False,
        )
    paths = [getattr(getattr(one, "config", None), "_name_or_path", "") for one in (base, theirs)]
    if all(paths) and paths[0] != paths[1]:
        return f"the reference is loaded from {paths[1]}, the policy from {paths[0]}", True
    return (
        "the policy's weights were changed after they were loaded, or the reference's were",
        False,
    )


def _shape(model: Any) -> tuple[Any, ...]:
    config = getattr(model, "config", None)
    names = "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"
    return tuple(getattr(config, name, None) for name in names)
