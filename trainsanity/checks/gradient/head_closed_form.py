"""TS601 gradient.head_closed_form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.factors import name_factor, told
from trainsanity.maths.tolerances import regress, within
from trainsanity.measurements.step.bounds import head_gradient_floor
from trainsanity.measurements.step.closed_form import closed_form
from trainsanity.measurements.step.steps import Recording, Step, reference
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS601",
    "gradient.head_closed_form",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "gradient.finite"),
    explained_by=("model.logits_spread", "loss.matches_reference"),
    rules_out="gradient direction",
)
def head_closed_form(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The head's gradient is the one that the mathematics gives, in size and direction.

    What it checks: the gradient that was accumulated on the head's weight in each recorded
    optimizer step, before clipping, against the closed form.

    Why it matters: it is the whole backward path seen at the one place where the answer is known
    exactly.  A wrong scale and a wrong direction are two different faults with different cures.

    How it is measured: for a linear head and mean cross entropy over N examples,
    dL/dW = (1/N) sum_i (softmax(z_i) - onehot(y_i)) h_i^T, with logits and head inputs recorded in
    that very step.  Regressing the accumulated gradient on it gives a slope (1 is right, 12 is
    twelve times too large) and a cosine (1 is right).  Allowed are four times the rounding that
    the same sum shows when it is accumulated in the gradient's dtype.

    How to fix: a slope is a matter of the loss's scale (see TS502); a cosine below 1 means that
    some micro-batches were lost, counted twice or zeroed; one that falls in step 2 alone, that the
    gradients of step 1 were not zeroed.

    Known false alarms: auxiliary losses that reach the head change its gradient by design.

    References: huggingface/transformers#47688; C. M. Bishop, Pattern Recognition and Machine
    Learning (2006), section 4.3.4, for the formula.
    """
    where = f"{recording.head_name}.weight"
    found = [_against_closed_form(pipeline, recording, step) for step in recording.steps]
    for number, (seen, finding) in enumerate(found, 1):
        if finding is not None:
            place = where if number == 1 else f"{where} in step {number}"
            yield replace(finding, where=place, observed=seen)
            break
    if (seen := found[0][0]) is not None:
        steps = f" in {len(found)} steps" if len(found) > 1 else ""
        yield Measured(
            f"slope {seen['slope']:.4f}, cosine {seen['cosine']:.6f} "
            f"against the closed form{steps}",
            seen,
            {"slope": 1, "cosine": 1},
        )


def _against_closed_form(
    pipeline: Pipeline, recording: Recording, step: Step
) -> tuple[dict[str, float] | None, Finding | None]:
    exact = closed_form(pipeline, recording.head_name, step)
    gradient = step.head_gradient
    if gradient is None:
        return None, Finding(
            "the head received no gradient",
            expected=float(exact.norm()),
            cause="it is frozen, or is not the layer that made the logits",
            fix="set requires_grad on the head before the optimizer is built",
        )
    slope, cosine = regress(gradient, exact)
    right = reference(pipeline, step)
    off_scale, off_axis = head_gradient_floor(objective_of(pipeline), right, gradient.dtype, exact)
    seen = {"slope": round(slope, 6), "cosine": round(cosine, 8)}
    if not within(1 - cosine, off_axis):
        return seen, Finding(
            f"the head's gradient points elsewhere than the closed form: cosine {cosine:.6f}",
            expected={"slope": 1, "cosine": 1},
            cause="micro-batches lost, counted twice, or zeroed between the backward passes, or "
            "gradients of the step before that were not zeroed",
            fix="zero gradients once per optimizer step, and return each micro-batch's own loss",
        )
    if not within(abs(slope - 1), off_scale):
        facts = recording.facts(pipeline, slope)
        names = name_factor(slope, facts, max(off_scale, 1e-3))
        return seen, Finding(
            f"the head's gradient is {slope:.4f} x the closed form, in the right direction "
            f"(cosine {cosine:.6f})",
            expected={"slope": 1, "cosine": 1},
            factor=slope,
            candidates=tuple(names),
            cause=told(slope, names) if names else "the loss is scaled",
            fix="clip once: leave it to max_grad_norm"
            if recording.clipped_before(pipeline, slope)
            else "make backward start from the mean over the examples of the optimizer step",
        )
    return seen, None
