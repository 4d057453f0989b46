"""TS518 loss.preference_is_the_formula."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loss.formula_is_known import DECLARE
from trainsanity.engine.registry import check
from trainsanity.maths.factors import NAMING, name_factor
from trainsanity.measurements.step.owners import own_class
from trainsanity.measurements.step.preference import Point, Preference
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import CUSTOM
from trainsanity.objectives.preference_formulas import (
    EXCHANGED,
    NO_REFERENCE,
    PER_TOKEN,
    PROMPT,
    SMOOTHED,
    SUMMED,
)
from trainsanity.types import Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FIXES = {
    PROMPT: "count the answer's tokens alone: completion_mask is 0, labels are -100, on the prompt",
    EXCHANGED: "subtract the rejected answer's log-ratio from the chosen one's",
    NO_REFERENCE: "subtract the reference's log-probability from the policy's, answer by answer",
    SMOOTHED: "give args.label_smoothing to the loss",
    PER_TOKEN: "sum the log-probabilities over an answer's tokens",
    SUMMED: "divide an answer's log-probability by its number of tokens",
}


@check(
    "TS518",
    "loss.preference_is_the_formula",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="preference loss",
    judges=Judges.LOSS,
)
def preference_is_the_formula(
    pipeline: Pipeline, preference: Preference, recording: Recording
) -> Iterator[Measured | Finding]:
    """A preference loss is the formula of its loss_type, with the beta that is set.

    What it checks: the loss of TRL's DPO, KTO and ORPO Trainers, and of your subclass of one,
    against the documented formula of ``args.loss_type`` at ``args.beta``, in value and gradient.

    Why it matters: before step 1 policy and reference are the same, so that the first loss is log 2
    whatever beta is and whichever answer is preferred. Exchanged answers train the model to prefer
    the worse one; another beta is another strength of the penalty; in IPO, KTO and ORPO tokens of
    the prompt that are counted change every margin (in sigmoid DPO they cancel).

    How it is measured: the trainable weights are moved at random, from a seed, until beta times the
    log-ratio of an answer is between 0.1 and 3 as a root mean square, at two places, and put back
    bit for bit. The formula is computed in float64 from log-probabilities seen in the passes that
    the loss itself makes. Which tokens are the answer is read from the rows that the collator was
    given (prompt_ids, chosen_ids), or else from the batch's mask. The gradient is taken with
    respect to what the model returned. Tolerance: four units in the last place of the dtype that
    the model returns, and the order of float32 sums, of each answer's log-probability times the
    slope of the loss. A loss that differs is compared with known mistakes and with the formula at
    other betas; a mistake is named if it has value and gradient at both places.

    How to fix: the finding names the mistake. Bad:

        logits = rejected_logratios - chosen_logratios
        loss = -torch.nn.functional.logsigmoid(0.1 * logits).mean()

    Good:

        logits = chosen_logratios - rejected_logratios
        loss = -torch.nn.functional.logsigmoid(self.args.beta * logits).mean()

    Known false alarms: a loss of your own that is meant to be another is a warning, which
    objective = "custom" ends. What no formula here covers (f-divergences, ld_alpha, WPO weights, a
    router's auxiliary loss) is skipped, and so is a loss on several processes.

    References: Rafailov et al. 2023 for DPO, Azar et al. 2023 for IPO, Ethayarajh et
    al. 2024 for KTO, Hong et al. 2024 for ORPO.
    """
    if pipeline.objective == CUSTOM:
        raise Skip('the objective is declared as "custom": the laws judge the loss')
    settings, points = preference.settings, preference.points
    if settings is None or not points:
        raise Skip(recording.own.reason or preference.reason)
    worst = next((point for point in points if not point.agrees), points[0])
    off = [point for point in points if not point.agrees]
    if off:
        if any(math.isnan(point.slope) for point in off):
            raise Skip("both sides of the pairs are alike: the formula has no gradient")
        facts = recording.facts(pipeline)
        scale = _one_factor(off)
        named = name_factor(scale, facts, NAMING) if scale is not None else None
        mistake = next((m for m in off[0].mistakes if all(m in p.mistakes for p in off)), "")
        beta = off[0].beta
        same_beta = all(math.isclose(point.beta, beta, rel_tol=NAMING) for point in off)
        if mistake or same_beta:
            cause = mistake or (
                f"the loss is computed with beta {beta:.4g}, {beta / settings.beta:.4g} x the "
                f"{settings.beta:.4g} of the arguments"
            )
            yield Finding(
                f"{_said(worst)}: {cause}",
                observed=worst.loss,
                expected=worst.expected,
                factor=None if mistake else beta / settings.beta,
                where=f"loss_type {settings.words}",
                cause=cause,
                fix=FIXES.get(
                    mistake, "take beta from self.args.beta, or set that to what is meant"
                ),
            )
        elif named:
            raise Skip(
                f"the formula times a quantity of the run ({scale:.4g}), which the weights judge"
            )
        else:
            own = own_class(pipeline.trainer)
            yield Finding(
                f"{_said(worst)}, and no known mistake gives it",
                observed=worst.loss,
                expected=worst.expected,
                where=f"loss_type {settings.words}",
                cause=f"{own} computes a loss of its own"
                if own
                else "the loss differs from the formula of the loss_type that is set",
                fix=f"{DECLARE}; if not, compare it with the formula",
                severity=Severity.WARNING if own else Severity.FAILURE,
            )
    yield Measured(
        f"at weights beside the policy's {preference.answers} answers have a loss of "
        f"{worst.loss:.6g}, the formula of {settings.words} gives {worst.expected:.6g}; gradients "
        f"with respect to the model's output differ by {worst.turned:.2g} of the norm",
        worst.loss,
        worst.expected,
    )


def _said(point: Point) -> str:
    if abs(point.loss - point.expected) > point.allowed:
        return (
            f"where policy and reference differ the loss is {point.loss:.4f}, and the formula of "
            f"the loss_type gives {point.expected:.4f}"
        )
    return (
        f"where policy and reference differ the gradient of the loss is {point.slope:.4f} x the "
        "formula's along it"
    )


def _one_factor(points: list[Point]) -> float | None:
    """Return what the loss is times the formula, in value and gradient alike; None if nothing."""
    factors = [point.loss / point.expected for point in points if point.expected]
    slopes = [point.slope for point in points]
    if not factors or not all(
        math.isclose(one, factors[0], rel_tol=NAMING) for one in [*factors, *slopes]
    ):
        return None
    return factors[0]
