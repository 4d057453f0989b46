"""TS542 loss.outputs_give_the_loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loss.formula_is_known import DECLARE
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.factors import NAMING, name_factor
from trainsanity.measurements.step.outputs_formula import OutputsFormula
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import CUSTOM
from trainsanity.types import Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS542",
    "loss.outputs_give_the_loss",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="loss formula",
    judges=Judges.LOSS,
)
def outputs_give_the_loss(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The loss is the formula of its objective on the outputs that it was made of.

    What it checks: the loss of a micro-batch, and its gradient with respect to the model's outputs,
    against the formula of the objective: extractive question answering (start_logits and
    end_logits), semantic segmentation (maps of classes), CTC (letters of a sound),
    TRL's reward models and GKD (a teacher's distribution), and sentence-transformers'
    MultipleNegativesRankingLoss, CosineSimilarityLoss and the reranker's BinaryCrossEntropyLoss.

    Why it matters: these losses have mistakes of their own, and none crashes: begin and end of a
    span added, padding that is counted as frames of a sound, ignored pixels in the divisor,
    similarities without their scale, a teacher that is followed on the prompt. The loss falls, and
    the model learns something else, or the same at another rate.

    How it is measured: compute_loss runs once more on the first micro-batch. The outputs of the
    passes inside it are kept, and the formula is computed on them in float64, so that dropout is
    the same. Value and gradient are compared. Tolerance: four times what the formula itself is off
    by when it is computed in the dtype of the outputs and under the run's autocast, and four units
    in the last place of that dtype. A loss that differs is compared with known mistakes, and
    those are named that have its value and gradient.

    How to fix: the finding names the mistake. Bad, in a compute_loss for spans:

        loss = cross_entropy(out.start_logits, start) + cross_entropy(out.end_logits, end)

    Good:

        loss = (cross_entropy(out.start_logits, start) + cross_entropy(out.end_logits, end)) / 2

    Known false alarms: a loss of your own that equals no mistake is a warning, which
    objective = "custom" ends. A library's loss that is another formula than the one known here (an
    auxiliary head, a model with a loss of its own) is skipped, as are settings that change it.

    References: transformers' ForQuestionAnsweringLoss and ForSemanticSegmentationLoss; Graves et
    al. 2006 for CTC; van den Oord et al. 2018 for InfoNCE; Agarwal et al. 2024 for GKD.
    """
    if pipeline.objective == CUSTOM:
        raise Skip('the objective is declared as "custom": the laws judge the loss')
    found, task = recording.outputs, objective_of(pipeline)
    if found.reason or math.isnan(found.loss):
        raise Skip(recording.own.reason or found.reason)
    if not found.agrees:
        yield from _differs(pipeline, recording, found)
    beside = (
        ""
        if found.turned is None
        else (f"; gradients with respect to the outputs differ by {found.turned:.2g} of the norm")
    )
    yield Measured(
        f"{found.items:,} {task.item_word} have a loss of {found.loss:.6g}, the formula of "
        f"{task.name} on the same outputs gives {found.expected:.6g}{beside}",
        found.loss,
        found.expected,
    )


def _differs(pipeline: Pipeline, recording: Recording, found: OutputsFormula) -> Iterator[Finding]:
    """Yield what a loss is that is not the formula."""
    task = objective_of(pipeline)
    value = (
        f"the loss is {found.loss:.4f}, and the formula of {task.name} gives {found.expected:.4f}"
    )
    if math.isclose(found.loss, found.expected, rel_tol=1e-4):
        value = (
            f"the gradient of the loss with respect to the outputs is {found.slope:.4f} x the "
            f"formula of {task.name}'s along it"
        )
    if found.mistakes:
        # Two mistakes with one value are not told apart: a sum over two rows is twice a mean.
        cause = ", or ".join(cause for cause, _ in found.mistakes)
        fix = "; or ".join(dict.fromkeys(fix for _, fix in found.mistakes))
        yield Finding(
            value,
            observed=found.loss,
            expected=found.expected,
            where=found.owner or None,
            cause=cause,
            fix=fix,
        )
        return
    factor = found.loss / found.expected if found.expected else math.nan
    if math.isclose(factor, found.slope, rel_tol=NAMING) and name_factor(
        factor, recording.facts(pipeline), NAMING
    ):
        raise Skip(
            f"the formula times a quantity of the run ({factor:.4g}), which the weights judge"
        )
    if not found.owner and pipeline.objective is None:
        raise Skip(
            "the library's loss is another formula than the one known here: the laws judge it"
        )
    declared = pipeline.objective is not None
    yield Finding(
        f"{value}, and no known mistake gives it",
        observed=found.loss,
        expected=found.expected,
        where=found.owner or None,
        cause="another formula than that of the declared objective"
        if declared
        else f"{found.owner} computes a loss of its own",
        fix=f"{DECLARE}; if not, compare it with the formula",
        severity=Severity.FAILURE if declared else Severity.WARNING,
    )
