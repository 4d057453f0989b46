"""TS602 gradient.norm_within_bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.gradient._scale import (
    exact_head_gradient,
    norm_at_most,
    rounding_of_norms,
)
from trainsanity.engine.registry import check
from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import MARGIN, within
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.steps import Recording, Step
from trainsanity.types import Cost, Finding, Judges, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS602",
    "gradient.norm_within_bounds",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("dataset.labels_in_range", "gradient.finite"),
    explained_by=(
        "model.logits_spread",
        "loss.matches_reference",
        "gradient.head_closed_form",
    ),
    rules_out="gradient norm",
    judges=Judges.GRADIENT,
)
def norm_within_bounds(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The gradient norm lies within the bounds that the step's own losses set.

    What it checks: the norm of all gradients before clipping, and the ``grad_norm`` that the
    Trainer logs.

    Why it matters: there is no healthy norm in general: 2.4, 6 and 144 were all right for their
    models.  What can be said is what it must lie between for this model and batch.

    How it is measured: from below, the norm of the head's closed-form gradient, one part of the
    whole.  From above, the triangle inequality: with g_k the gradient that micro-batch k added and
    c_k = the loss its backward pass started from / the mean over its examples, the gradient of the
    step's mean loss is sum_k (n_k / N) g_k / c_k, and no longer than the sum of the norms.  The
    logged norm must equal the norm computed from the gradients.  Rounding of the dtype is allowed.

    How to fix: by the side it lies on: above by a known factor, see TS502; above by another, look
    for a gradient that does not come from the loss; below, for one that is lost.

    Known false alarms: regularisers that add to .grad directly.

    References: measurements on GPUs on the evidence page of the documentation.
    """
    confirmed.require()
    step = recording.first
    if recording.sharded:
        raise Skip(
            "FSDP2 adds up the processes' gradients as they come: those of one micro-batch, which "
            "bound the norm from above, are not seen"
        )
    if not any(parameter.trainable for parameter in recording.update.parameters):
        raise Skip("nothing is trainable, and no gradient has a norm")
    eps = rounding_of_norms(step, pipeline)
    high = norm_at_most(step, reference(pipeline, step))
    if math.isinf(high) and all(math.isfinite(one.backward_loss) for one in step.micro_steps):
        raise Skip("the loss of a micro-batch is exactly 0, which does not tell its scale")
    # Without a closed form the bound from below is zero.
    exact = exact_head_gradient(pipeline, recording, step)
    low = float(exact.norm()) if exact is not None else 0.0
    norm, logged = step.norm_before_clip, step.logged.get("grad_norm")
    known = _rounding_of_losses(pipeline, step)
    bounds = {"at_least": low * (1 - eps), "at_most": high * (1 + eps + known)}
    if not (bounds["at_least"] <= norm and within(norm, bounds["at_most"])):
        above = norm > high
        slope = _own_scale(pipeline, recording)
        if exact is not None:
            slope = regress(step.head_gradient, exact)[0]
        scaled = abs(slope - 1) > eps
        against = "its closed form" if exact is not None else "a mean of its micro-batches' own"
        yield Finding(
            f"the total gradient norm is {norm:.3f}; for this batch it lies between "
            f"{low:.3f} and {high:.3f}",
            observed=norm,
            expected=bounds,
            where="step 1, before clipping",
            factor=slope if scaled else _over(norm, bounds["at_most" if above else "at_least"]),
            cause=_cause(scaled=scaled, above=above, slope=slope, against=against),
            fix="mend what the checks of the loss find; if they pass, look for a hook, a penalty "
            "or a second backward() that writes to .grad",
        )
    if logged is not None and not within(abs(logged - norm), eps * norm):
        after = within(abs(logged - step.norm_after_clip), eps * step.norm_after_clip)
        yield Finding(
            f"the Trainer logs grad_norm {logged:.4f}; the gradients have the norm {norm:.4f}",
            observed=logged,
            expected=norm,
            factor=_over(logged, norm),
            where="step 1",
            cause="what is logged is the norm after clipping"
            if after
            else "the norm is taken over other parameters, or at another moment",
            fix="log what clip_grad_norm_ returns",
        )
    log = "" if logged is None else f", logged {logged:.3f}"
    yield Measured(
        f"total norm {norm:.3f}{log}, computed bounds {low:.3f} to {high:.3f}", norm, bounds
    )


def _rounding_of_losses(pipeline: Pipeline, step: Step) -> float:
    """Return what the rounding of logits makes of the losses, relative to them.

    A cross entropy of l over C classes is a difference of numbers of about log C - log l: where the
    model knows its rows, little is left of these, and their last place is much of it.
    """
    import torch

    config = pipeline.config
    classes = getattr(config, "vocab_size", None) or getattr(config, "num_labels", None) or 2
    most = 0.0
    for micro in step.micro_steps:
        loss = float(micro.items.losses.mean()) if micro.items is not None else 0.0
        if loss > 0:
            size = math.log(classes) + abs(math.log(loss))
            most = max(most, size / loss)
    return MARGIN * float(torch.finfo(torch.float32).eps) * most


def _over(norm: float, bound: float) -> float | None:
    """Return the factor between two norms; None of nothing."""
    return norm / bound if bound else None


def _own_scale(pipeline: Pipeline, recording: Recording) -> float:
    """Return what the step's gradient is times a mean of its micro-batches' own; 1 if not asked."""
    own = recording.own
    scale = own.total * own.times_processes(pipeline.args.world_size)
    return scale if not own.reason and scale > 0 else 1.0


def _cause(*, scaled: bool, above: bool, slope: float, against: str) -> str:
    if scaled:
        whose = "head's" if against == "its closed form" else "step's"
        return f"the {whose} gradient is {slope:.4g} x {against}: the loss is scaled"
    if above:
        return "a gradient that does not come from the loss is added"
    return "a part of the gradient is lost"
