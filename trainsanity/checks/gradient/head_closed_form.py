"""TS601 gradient.head_closed_form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainsanity.checks.gradient._scale import STALE, loss_is_the_reference
from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.factors import Left, explained, name_factor
from trainsanity.maths.regression import decompose, regress
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.bounds import head_gradient_floor
from trainsanity.measurements.step.closed_form import closed_form, parts_of_closed_form
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.steps import Recording
from trainsanity.measurements.step.told_apart import told_apart_by_gradient
from trainsanity.proofs import Repair
from trainsanity.repairs import count_ignored, loss_divided, repair
from trainsanity.types import Blocked, Cost, Finding, Judges, Measured, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


ZEROED, HELD = "gradient.starts_from_zero", "update.optimizer_holds_trainable"


CLIPPED_ONCE = repair("clipping left to max_grad_norm", "own_clip_left_out")


@check(
    "TS601",
    "gradient.head_closed_form",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "gradient.finite"),
    explained_by=("model.logits_spread", "loss.matches_reference"),
    follows=("gradient.starts_from_zero", "loss.shapes_agree"),
    rules_out="gradient direction",
    judges=Judges.GRADIENT,
)
def head_closed_form(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The head's gradient equals its closed form, in size and direction.

    What it checks: the gradient that was accumulated on the head's weight in each recorded
    optimizer step, before clipping, against the closed form.

    Why it matters: it shows the whole backward path at the one place where the answer is known
    exactly.  A wrong scale and a wrong direction are two different faults with different cures.

    How it is measured: for a linear head and mean cross entropy over N examples,
    dL/dW = (1/N) sum_i (softmax(z_i) - onehot(y_i)) h_i^T, with logits and head inputs recorded in
    that very step.  Regressing the accumulated gradient on it gives a slope (1 is right, 12 is
    twelve times too large) and a cosine (1 is right).  Allowed are four times the rounding that
    the same sum shows when it is accumulated in the gradient's dtype.

    How to fix: a slope is a matter of the loss's scale (see TS502).  For a cosine below 1 the
    gradient is decomposed into those of the micro-batches and of the step before, by least squares:
    the finding gives their weights if they make it up, and else says that something else is in it.

    Known false alarms: auxiliary losses that reach the head change its gradient by design.

    References: huggingface/transformers#47688; C. M. Bishop, Pattern Recognition and Machine
    Learning (2006), section 4.3.4, for the formula.
    """
    confirmed.require()
    if recording.not_comparable:
        raise Skip(recording.not_comparable)
    whole = [
        number
        for number, step in enumerate(recording.steps)
        if not step.left and not step.head_left
    ]
    if not whole:
        raise Blocked(STALE, by=ZEROED if recording.first.left else HELD)
    found = [_against_closed_form(pipeline, recording, number) for number in whole]
    wrong = next((finding for _, finding in found if finding is not None), None)
    if wrong is not None:
        yield wrong
    seen, _ = found[0]
    yield Measured(
        f"slope {seen['slope']:.4f}, cosine {seen['cosine']:.6f} against the closed form; "
        f"{len(found)} steps compared",
        seen,
        {"slope": 1, "cosine": 1},
    )


def _against_closed_form(
    pipeline: Pipeline, recording: Recording, number: int
) -> tuple[dict[str, float], Finding | None]:
    """Return slope and cosine of one step's head gradient, and what is wrong with them."""
    step, name = recording.steps[number], f"{recording.head_name}.weight"
    where = name if not number else f"{name} in step {number + 1}"
    exact = closed_form(pipeline, recording.head_name, step)
    gradient = step.head_gradient
    if gradient is None:
        frozen = any(p.name == name and not p.trainable for p in recording.update.parameters)
        seen = {"slope": 0.0, "cosine": 0.0}
        return seen, Finding(
            "the head received no gradient",
            observed=seen,
            expected=float(exact.norm()),
            where=where,
            **_unreached(frozen=frozen, adapted=hasattr(pipeline.model, "peft_config")),
            repairs=(repair(f"{name}.requires_grad = True", "parameters_trainable", names=(name,)),)
            if frozen
            else (),
        )
    slope, cosine = regress(gradient, exact)
    right = reference(pipeline, step)
    off_scale, off_axis = head_gradient_floor(objective_of(pipeline), right, gradient.dtype, exact)
    seen = {"slope": round(slope, 6), "cosine": round(cosine, 8)}
    common: dict[str, Any] = {
        "observed": seen,
        "expected": {"slope": 1, "cosine": 1},
        "where": where,
    }
    if not within(1 - cosine, off_axis):
        cause, fix = _direction(pipeline, recording, number, off_axis)
        return seen, Finding(
            f"the head's gradient points elsewhere than the closed form: cosine {cosine:.6f}",
            **common,
            cause=cause,
            fix=fix,
        )
    if not within(abs(slope - 1), off_scale):
        facts = recording.facts(pipeline, slope)
        left = Left(name_factor(slope, facts, max(off_scale, 1e-3)))
        if not number:
            left = told_apart_by_gradient(pipeline, recording, left.names, slope)
        names = left.names
        return seen, Finding(
            f"the head's gradient is {slope:.4f} x the closed form, in the right direction "
            f"(cosine {cosine:.6f})",
            **common,
            factor=slope,
            candidates=tuple(names),
            tested=left.tested,
            cause=explained(slope, names)
            if names
            else "the loss, or the gradient, is scaled by no known quantity of the run",
            fix=_rescaled(pipeline, recording, slope, names),
            repairs=_repairs(pipeline, recording, slope, names),
        )
    return seen, None


def _unreached(*, frozen: bool, adapted: bool) -> dict[str, Any]:
    """Return cause and fix for a head without a gradient."""
    if frozen and adapted:
        return {
            "cause": "PEFT froze it with the base model: only the adapter is trained, and what "
            "modules_to_save names",
            "fix": 'LoraConfig(task_type="SEQ_CLS", ...), which keeps the head of a classifier '
            "trainable, or name it in modules_to_save",
        }
    if frozen:
        return {
            "cause": "it is frozen: requires_grad is False",
            "fix": "set requires_grad on the head before the optimizer is built",
        }
    return {
        "cause": "it is trainable, but no backward pass reached it: the graph is cut behind it, or "
        "another layer made the logits",
        "fix": "look for a detach or no_grad between the head and the loss",
    }


def _repairs(
    pipeline: Pipeline, recording: Recording, slope: float, names: Sequence[str]
) -> tuple[Repair, ...]:
    """Return what may bring the gradient back to its scale; what is logged is right."""
    if recording.clipped_before(pipeline, slope):
        return (CLIPPED_ONCE,) if pipeline.trainer is not None else ()
    if not names:
        return ()
    counted = any("gradient_accumulation_steps" in name for name in names)
    accumulated = pipeline.trainer is None and counted
    divided = loss_divided(slope, logged=False, accumulated=accumulated)
    return (*count_ignored(pipeline), divided)


def _rescaled(pipeline: Pipeline, recording: Recording, slope: float, names: Sequence[str]) -> str:
    """Return what brings the gradient back to its scale, in the words of the code that sets it."""
    if recording.clipped_before(pipeline, slope):
        return "clip once: leave it to max_grad_norm"
    accumulated = pipeline.args.gradient_accumulation_steps
    by_accumulation = any("gradient_accumulation_steps" in name for name in names)
    if pipeline.trainer is None and by_accumulation and slope > 1:
        return f"loss = loss / {accumulated} before backward(), if the loss is a micro-batch's mean"
    return "make backward start from the mean over the examples of the optimizer step"


def _direction(
    pipeline: Pipeline, recording: Recording, number: int, off_axis: float
) -> tuple[str, str]:
    """Return cause and fix of a wrong direction, by what the gradient is made of."""
    step = recording.steps[number]
    parts = parts_of_closed_form(pipeline, recording.head_name, step)
    left = _left_by_the_step_before(recording, number)
    weights, cosine = decompose(step.head_gradient, [*parts, *([] if left is None else [left])])
    weights = [round(weight, 2) + 0.0 for weight in weights]
    if within(1 - cosine, off_axis):
        own = weights[: len(parts)]
        listed = ", ".join(f"{weight:g}" for weight in own[:SHOWN])
        more = ", ..." if len(parts) > SHOWN else ""
        cause = f"the {len(parts)} micro-batches count {listed}{more} times where each should once"
        if left is not None:
            cause += f"; what the step before left is in it {weights[-1]:g} times"
        return cause, "zero gradients once per optimizer step, and add up every micro-batch's own"
    if loss_is_the_reference(pipeline, step) is False:
        return (
            "it is no sum of the micro-batches' gradients, and the logged loss is not their mean "
            "(TS502): another loss than the plain mean is trained",
            "name the check in expected_failures if the loss is meant",
        )
    return (
        "it is no sum of the micro-batches' gradients: an auxiliary loss, a hook, or something "
        "else that writes to .grad is in it",
        "find what else reaches the head's gradient between the backward passes",
    )


def _left_by_the_step_before(recording: Recording, number: int) -> Tensor | None:
    """Return the head's gradient of the step before as its optimizer used it, clipped."""
    if not number:
        return None
    step = recording.steps[number - 1]
    if step.head_gradient is None or not step.norm_before_clip:
        return None
    left: Tensor = step.head_gradient * (step.norm_after_clip / step.norm_before_clip)
    return left


SHOWN = 8
"""Weights of micro-batches that a cause lists."""
