"""TS502 loss.matches_reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.checks.loss._words import logs_a_loss
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.factors import Factor, explained
from trainsanity.maths.tolerances import UNEVEN, within
from trainsanity.measurements.batches.whose_loss import own_loss
from trainsanity.measurements.step.bounds import logged_loss_rounding
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.reference_loss import Reference, reference
from trainsanity.measurements.step.steps import Recording, Step
from trainsanity.pipeline import unwrapped
from trainsanity.repairs import COUNT_IGNORED, loss_divided
from trainsanity.types import Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


ACCUMULATION = "gradient_accumulation_steps"

NEAR_ONE = 0.05
"""Factors this near to 1 are printed with four decimals; it decides nothing else."""


@check(
    "TS502",
    "loss.matches_reference",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "model.logits_finite", "loss.finite"),
    rules_out="loss scale",
    judges=Judges.LOSS,
)
def matches_reference(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The logged loss is the mean over the step's examples.

    What it checks: the logged loss of each recorded step against the mean of the examples' own
    losses (for language models and token classification: the tokens'), computed from the very
    logits of that step.

    Why it matters: losses and gradients that are a constant factor too large make every logged
    number useless, turn max_grad_norm into something else, and change the effective rate of
    SGD-like optimizers.  Under AdamW the direction survives, so the run does not crash and does
    not obviously fail: it is only wrong.

    How it is measured: during the Trainer's own optimizer steps the logits and labels of
    each micro-batch are recorded; the reference is the mean over all N items of the accumulated
    batch in float64: logsumexp(z_i) - z_i[y_i], with the Trainer's label smoothing; for several
    labels the binary cross entropy, for regression the squared error; for language models after
    the shift, without what is labelled -100.  The tolerance counts the roundings on the way: each
    example's log-softmax to the dtype that the head computed in, the mean to the loss's dtype, the
    four decimals of the log.  The factor is matched against accumulation, processes and batch size.

    How to fix: the finding names the factor where it is a known one.  For a model whose forward
    takes ``**kwargs`` but whose loss ignores ``num_items_in_batch``, set
    ``model.accepts_loss_kwargs = False`` before the Trainer is built.

    A mean of micro-batch means in which an item of one weighs more than three times as much as one
    of another is a warning: texts of ordinary lengths in batches of eight stay below 2.

    Known false alarms: class weights and auxiliary losses are no plain mean. Where each row has one
    target more than the Trainer counts, as behind the virtual tokens of a prompt, the step is
    longer by these alone: a warning.

    References: huggingface/transformers#47688, #37766, #37110, #46204, #46731;
    NVIDIA-NeMo/Automodel#3829.
    """
    confirmed.require()
    if not recording.first.logged:
        raise Skip("no loss was logged for the first step")
    judged = []
    for number, step in enumerate(recording.steps, 1):
        if number > 1 and not step.judgeable:
            break
        right = reference(pipeline, step)
        observed = step.logged["loss"]
        judged.append((number, step, observed, right))
    for number, step, observed, right in judged:
        allowed = logged_loss_rounding(step.micro_steps)
        if within(abs(observed - right.mean), allowed):
            continue
        factor = Factor.of(observed, right.mean, allowed)
        times = (
            f"{factor.value:.4f} x" if abs(factor.value - 1) < NEAR_ONE else f"{factor.value:.2f} x"
        )
        yield Finding(
            f"{logs_a_loss(pipeline, observed)} step {number}; "
            f"the {right.words} is {right.mean:.4f}: {times}",
            observed=observed,
            expected=right.mean,
            factor=factor.value,
            where=f"step {number}",
            **_explain(pipeline, recording, step, right.count, factor),
        )
        break
    _, first, observed, right = judged[0]
    if first.counted:
        yield Finding(
            f"the loss sums over {right.count} {objective_of(pipeline).item_word} and is divided "
            f"by {first.counted:g}: it is {right.count / first.counted:.4f} x their mean",
            observed=right.count,
            expected=first.counted,
            factor=right.count / first.counted,
            where="step 1",
            cause="the Trainer does not count the first label of each row, which nothing predicts "
            "as a rule; here something does, as virtual tokens of a prompt",
            fix="nothing; compare losses with those of runs that count alike",
            severity=Severity.WARNING,
        )
    elif within(abs(observed - right.mean), logged_loss_rounding(first.micro_steps)):
        yield from _uneven(pipeline, right)
    later = "".join(
        f"; step {number}: {logged:.4f}, {own.mean:.4f}" for number, _, logged, own in judged[1:]
    )
    if recording.out_of_memory:
        later = "; a second step did not fit in the device's memory"
    yield Measured(
        f"logged loss {observed:.4f}, {right.words} {right.mean:.4f}{later}",
        observed,
        right.mean,
    )


def _uneven(pipeline: Pipeline, right: Reference) -> Iterator[Finding]:
    """Yield what a mean of means makes of items in micro-batches of unequal size."""
    spread = max(right.weights) / min(right.weights)
    if spread <= UNEVEN:
        return
    word = objective_of(pipeline).item_word
    plain = sum(float(items.losses.sum()) for items in right.parts) / right.count
    yield Finding(
        f"the loss of step 1 is the mean of {len(right.parts)} micro-batch means, "
        f"{right.mean:.4f}; over all {right.count} {word} it is {plain:.4f}: what one micro-batch "
        f"counts weighs {spread:.1f} times as much as what another does",
        observed=right.mean,
        expected=plain,
        factor=spread,
        where="step 1",
        cause=f"each micro-batch is divided by its own number of {word}, however few there are",
        fix="divide each sum by num_items_in_batch, which the Trainer counts over the whole step: "
        "compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None)"
        if pipeline.trainer is not None
        else f"divide each micro-batch's sum by the {word} of the whole step",
        severity=Severity.WARNING,
    )


def _explain(
    pipeline: Pipeline, recording: Recording, step: Step, count: int, factor: Factor
) -> dict[str, Any]:
    """Return cause and fix, as far as the factor and the Trainer's own switches show them."""
    items = step.micro_steps[0].num_items_in_batch
    word = objective_of(pipeline).item_word
    if items and items != count and abs(factor.value * items / count - 1) <= factor.tolerance:
        return {
            "cause": f"{factor.value:.4f} is {count} / {items:g}: the loss sums over {count} "
            f"{word} and is divided by num_items_in_batch = {items:g}, which "
            "counts labels that the loss does not (before the shift, or ignored ones)",
            "fix": "count the labels that the loss counts: labels[..., 1:] != -100",
        }
    names = factor.names(recording.facts(pipeline))
    if step is recording.first:
        names = _told_apart(names, pipeline, recording, factor)
    custom = pipeline.trainer is None
    if not names and _smoothed_unshifted(pipeline):
        name = type(unwrapped(pipeline.model)).__name__
        return {
            "cause": "with label_smoothing_factor the Trainer computes the loss, and shifts labels "
            f"for classes that it knows by name; {name} is none of these: each output is compared "
            "with the token that it has just read, and not with the next one",
            "fix": "leave out label_smoothing_factor, or call self.label_smoother(outputs, labels, "
            "shift_labels=True) in compute_loss",
        }
    if not names:
        returned = "train_step" if custom else "compute_loss"
        return {"cause": None, "fix": f"compare what {returned} returns with the plain mean"}
    cause = explained(factor.value, names)
    counts = getattr(pipeline.trainer, "model_accepts_loss_kwargs", False) and items is not None
    accumulates = any(ACCUMULATION in name for name in names)
    if factor.value > 1 and accumulates and counts:
        cause += (
            ", which is not divided out: the Trainer passes num_items_in_batch "
            f"({items:g}) because forward takes **kwargs, and skips its own division; the "
            "model's loss ignores that number and returns the micro-batch's mean"
        )
        fix = "model.accepts_loss_kwargs = False, before the Trainer is built"
        if getattr(unwrapped(pipeline.model), "accepts_loss_kwargs", None) is False:
            cause += "; model.accepts_loss_kwargs = False was set after the Trainer was built, "
            cause += "which reads it only then"
            fix = "set it on the model before Trainer(model, ...) is called"
    elif factor.value > 1 and custom:
        cause += ", which is not divided out"
        # What the loop logs may be all that is wrong: its gradient is judged by itself.
        divisor = recording.facts(pipeline).get("gradient_accumulation_steps")
        fix = (
            f"loss = loss / {divisor} before backward()"
            # Of a script's own loop what it sends backward is all that is seen.
            + ("" if pipeline.captured is not None else ", and return the sum of these")
            if accumulates and divisor
            else "divide the loss before backward(), and return the mean over the step"
        )
    elif factor.value > 1:
        cause += ", which is not divided out"
        fix = (
            "return the sum over the micro-batch divided by num_items_in_batch from compute_loss, "
            "or the plain mean with loss_is_scaled_for_ga = False where the Trainer has it"
        )
    else:
        cause += ", which is divided out twice"
        fix = (
            "divide once: the loss before backward(), or what is returned"
            if custom
            else "divide once: leave it to the Trainer, or to compute_loss"
        )
    divided = loss_divided(factor.value)
    repairs = (COUNT_IGNORED, divided) if counts and accumulates else (divided,)
    return {"cause": cause, "fix": fix, "candidates": tuple(names), "repairs": repairs}


NEAR = 0.25
"""How far, of the way from 1 to the factor, what micro-batches by themselves show may lie from one
of both. Chosen: micro-batches of unequal size move their mean by a few percent."""


def _told_apart(
    names: list[str], pipeline: Pipeline, recording: Recording, factor: Factor
) -> list[str]:
    """Return which of several quantities it is, where micro-batches by themselves show that.

    The accumulation goes away where each is a step of its own; any other factor stays.
    """
    own, accumulated = recording.own, [name for name in names if ACCUMULATION in name]
    others = [name for name in names if name not in accumulated]
    # Of a script's own loop only the model is asked again, and not what the loop makes of its loss.
    asked = own.losses and not own.reason and pipeline.captured is None
    if not (accumulated and others and asked) or pipeline.other_processes:
        return names
    alone = math.fsum(own.losses) / len(own.losses)
    times = alone * factor.value / recording.first.logged["loss"]
    if not times > 0:
        return names
    way = math.log(times) / math.log(factor.value)
    return accumulated if abs(way) < NEAR else others if abs(way - 1) < NEAR else names


def _smoothed_unshifted(pipeline: Pipeline) -> bool:
    """Return whether the Trainer smooths the labels of a language model that it does not know."""
    from transformers.models.auto import modeling_auto

    known = getattr(modeling_auto, "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", {}).values()
    smoother = getattr(pipeline.trainer, "label_smoother", None)
    name = type(unwrapped(pipeline.model)).__name__
    own = own_loss(pipeline)
    return smoother is not None and not own and objective_of(pipeline).shifts and name not in known
