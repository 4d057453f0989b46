"""TS508 loss.formula_is_known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.step.confirmed import SHIFTED, Confirmed
from trainsanity.objectives.base import CUSTOM
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

DECLARE = (
    'if it is meant: objective = "custom" in [tool.trainsanity], or as an attribute of your factory'
)


@check(
    "TS508",
    "loss.formula_is_known",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="loss formula",
)
def formula_is_known(pipeline: Pipeline, confirmed: Confirmed) -> Iterator[Measured | Finding]:
    """A loss of your own is the formula of its objective, or is declared to be another.

    What it checks: the loss of a micro-batch, where code of your own computes it, against the
    formula of the objective that model and labels point to, and against the values that known
    mistakes give.

    Why it matters: a softmax too many, a sum for a mean, a missing shift or broadcast targets do
    not crash; the loss goes down, and the model learns something else. A loss that is meant to be
    another (class weights, focal, distillation) is nothing to mend, but the formula then says
    nothing, and what could have been checked is not.

    How it is measured: each micro-batch of the first step is asked as a whole step. Its loss is
    compared with the formula on its own logits and labels, with the rounding of the dtypes as
    tolerance, and if it differs with each known mistake on the same logits. One that equals exactly
    one mistake is a failure with its name. One that equals none is a custom loss and a warning,
    since nobody but you can tell; it is a failure if you declare the objective by its name. So is
    one that changes with the random numbers while dropout is off, as mixup does. A loss that the
    model itself adds and shows (aux_loss of a mixture of experts, times the config's coefficient)
    is taken off first. The laws
    (gradient.step_is_the_weighted_sum, loss.logged_is_a_mean) judge a custom loss.

    How to fix: the finding names the mistake. For a loss that is meant, declare it:
    objective = "custom" under [tool.trainsanity] in pyproject.toml, as an attribute of the function
    that builds the Trainer (build.objective = "custom"), or as an argument of
    Pipeline.from_trainer or Pipeline.from_loop.

    Known false alarms: a loss of its own that has the value of a mistake by chance; it would have
    to agree with it in every digit.

    References: bkitano/llama-from-scratch#5 for softmax before cross entropy;
    huggingface/transformers#47394 for a second shift; pytorch/pytorch#16045 for broadcast targets.
    """
    if pipeline.objective == CUSTOM:
        raise Skip('the objective is declared as "custom": the laws judge the loss')
    if not objective_of(pipeline).known:
        raise Skip(f"no formula for the objective {objective_of(pipeline).name}")
    if not (confirmed.owner or confirmed.added):
        judges = "the laws judge" if confirmed.custom else "loss.matches_reference judges"
        raise Skip(f"the loss is a library's: {judges} it")
    if math.isnan(confirmed.loss) or math.isnan(confirmed.expected):
        raise Skip(
            "the micro-batch did not make logits from labelled rows in one pass of the model"
        )
    if confirmed.shifted:
        raise Skip(SHIFTED)
    if confirmed.scaled:
        raise Skip("the formula times a quantity of the run, which loss.matches_reference judges")
    if confirmed.mistake:
        yield Finding(
            f"{confirmed.owner} returns {confirmed.loss:.4f} for a micro-batch; the formula of "
            f"{objective_of(pipeline).name} gives {confirmed.expected:.4f}",
            observed=confirmed.loss,
            expected=confirmed.expected,
            where=confirmed.owner,
            factor=confirmed.loss / confirmed.expected if confirmed.expected else None,
            cause=confirmed.mistake,
            fix="give the loss raw logits and unshifted labels, and average over counted items: "
            "torch.nn.functional.cross_entropy(logits, labels) does all of it",
        )
    elif confirmed.rows:
        yield Finding(
            f"{confirmed.owner} averages over rows first: every row counts the same, however many "
            "tokens it has",
            observed=confirmed.loss,
            expected=confirmed.expected,
            where=confirmed.owner,
            cause="a mean of row means; the library's losses are means over all tokens",
            fix=DECLARE,
            severity=Severity.WARNING,
        )
    elif confirmed.custom:
        drawn = math.isfinite(confirmed.redrawn)
        yield Finding(
            f"{confirmed.owner} draws random numbers of its own: with dropout off the same "
            f"micro-batch has another loss or gradient at another draw"
            if drawn
            else f"{confirmed.owner} returns {confirmed.loss:.4f} for a micro-batch; the formula "
            f"of {objective_of(pipeline).name} gives {confirmed.expected:.4f}, and no known "
            "mistake gives the loss",
            observed=confirmed.loss,
            expected=confirmed.expected,
            where=confirmed.owner,
            cause="another formula than that of the declared objective"
            if confirmed.declared
            else "a loss of its own, as mixup is"
            if drawn
            else "a loss of its own, as class weights or distillation are",
            fix=f"{DECLARE}; if not, compare it with the formula",
            severity=Severity.FAILURE if confirmed.declared else Severity.WARNING,
        )
    beside = f", beside it there is {confirmed.added}" if confirmed.added else ""
    yield Measured(
        f"{confirmed.owner or 'the model'} returns {confirmed.loss:.4f} for a micro-batch, the "
        f"formula of {objective_of(pipeline).name} gives {confirmed.expected:.4f}{beside}",
        confirmed.loss,
        confirmed.expected,
    )
