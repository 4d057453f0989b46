"""TS602 gradient.norm_within_bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.checks.gradient._scale import _eps
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import regress, within
from trainsanity.measurements.step.closed_form import closed_form
from trainsanity.measurements.step.steps import Recording, reference
from trainsanity.types import Cost, Finding, Measured, Skip

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
)
def norm_within_bounds(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The total gradient norm lies between the bounds that this pipeline's own step sets.

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

    References: field measurements of healthy norms in the README.
    """
    step = recording.first
    if recording.sharded:
        raise Skip(
            "FSDP2 adds up the processes' gradients as they come: those of one micro-batch, which "
            "bound the norm from above, are not seen"
        )
    eps = _eps(step, pipeline)
    right = reference(pipeline, step)
    exact: Any = None
    with contextlib.suppress(Skip):  # without a closed form the bound from below is zero
        exact = closed_form(pipeline, recording.head_name, step)
    trained = exact is not None and step.head_gradient is not None
    low, high = float(exact.norm()) if trained else 0.0, 0.0
    parts = zip(step.micro_steps, right.parts, right.weights, strict=True)
    for micro, items, weight in parts:
        # The micro-batch's share of the mean, in units of what its backward started from.
        high += micro.gradient_norm * weight * float(items.losses.sum()) / micro.backward_loss
    norm = step.norm_before_clip
    bounds = {"at_least": low * (1 - eps), "at_most": high * (1 + eps)}
    if not (bounds["at_least"] <= norm and within(norm, bounds["at_most"])):
        side = "at_most" if norm > high else "at_least"
        slope = regress(step.head_gradient, exact)[0] if trained else 1.0
        scaled = abs(slope - 1) > eps
        yield Finding(
            f"the total gradient norm is {norm:.3f}; for this batch it lies between "
            f"{low:.3f} and {high:.3f}",
            observed=norm,
            expected=bounds,
            where="step 1, before clipping",
            factor=slope if scaled else norm / bounds[side],
            cause="the loss is scaled"
            if scaled
            else "a gradient that does not come from the loss, or one that was lost",
            fix="see the loss's scale first; then what else writes to .grad",
        )
    logged = step.logged.get("grad_norm")
    if logged is not None and not within(abs(logged - norm), eps * norm):
        yield Finding(
            f"the Trainer logs grad_norm {logged:.4f}; the gradients have the norm {norm:.4f}",
            observed=logged,
            expected=norm,
            factor=logged / norm,
            where="step 1",
            cause="the norm is taken over other parameters, or at another moment",
            fix="log what clip_grad_norm_ returns",
        )
    yield Measured(f"total norm {norm:.3f}, between {low:.3f} and {high:.3f}", norm, bounds)
