"""TS603 gradient.clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.gradient._scale import _eps
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import regress
from trainsanity.measurements.step.closed_form import closed_form
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


WORTH_TELLING = 0.05
"""A slope this far from 1 is told beside the share that clipping keeps.  It decides nothing, only
keeps the 0.3 % of bfloat16 out of the sentence."""


@check(
    "TS603",
    "gradient.clipping",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    explained_by=("gradient.head_closed_form",),
    rules_out="clipping",
)
def clipping(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Clipping leaves the norm that ``max_grad_norm`` says.

    What it checks: the total norm after clipping against min(norm, max_grad_norm), that nothing
    else clipped before, and tells which share of the gradient is kept.

    Why it matters: a clip that keeps half a percent is no fault of its own under AdamW, but it
    makes every step the same length and hides what happened before it.  A clip that does not
    happen lets a single bad batch through.

    How it is measured: both norms are computed from the gradients themselves, before and after.
    Clipping multiplies by max_grad_norm / (norm + 1e-6); the rounding of the dtype is allowed.
    A gradient that is too short by the head's closed form (TS601), and already has the norm
    max_grad_norm before the Trainer clips, was clipped by something else.

    How to fix: repair the loss's scale first (TS502), then choose ``max_grad_norm`` from the norms
    that are seen in healthy steps.

    Known false alarms: clipping by value or per parameter group.

    References: torch.nn.utils.clip_grad_norm_.
    """
    step = recording.first
    norm, after = step.norm_before_clip, step.norm_after_clip
    limit = pipeline.args.max_grad_norm
    expected = min(norm, limit) if limit and limit > 0 else norm
    eps = _eps(step, pipeline)
    # A clip makes something finite even of an infinite norm.
    sound = math.isfinite(norm) and not math.isnan(limit or 0.0)
    if not (sound and abs(after - expected) <= eps * expected):
        yield Finding(
            f"the gradient's norm is {after:.4f} when the optimizer steps; "
            f"max_grad_norm {limit:g} makes it {expected:.4f}",
            observed=after,
            expected=expected,
            factor=after / expected if expected else None,
            where="step 1, after clipping",
            cause="clip_grad_norm_ was given other parameters, or was not called",
            fix="clip all trainable parameters once, after the last backward of the step",
        )
    kept = after / norm if norm else math.nan
    told = f"max_grad_norm {limit:g} keeps {kept:.1%} of a gradient of norm {norm:.3f}"
    slope = _slope(pipeline, recording)
    if slope is not None and recording.clipped_before(pipeline, slope):
        yield Finding(
            f"the gradient has the norm {norm:.4f} before the Trainer clips it to {limit:g}, and "
            f"is {slope:.4f} x what it should be",
            observed=norm,
            expected=norm / slope,
            factor=slope,
            where="step 1, before clipping",
            cause="something clips to max_grad_norm before the Trainer does",
            fix="clip once: leave it to max_grad_norm",
        )
    if slope is not None and norm and abs(slope - 1) > WORTH_TELLING:
        right = min(1.0, limit * slope / norm) if limit else 1.0
        told += f"; it would keep {right:.1%} at the right scale"
    yield Measured(told, {"norm": norm, "kept": kept}, {"norm_after": expected})


def _slope(pipeline: Pipeline, recording: Recording) -> float | None:
    """Size of the head's gradient in units of the closed form; None where there is none."""
    gradient = recording.first.head_gradient
    if gradient is None:
        return None
    try:
        exact = closed_form(pipeline, recording.head_name, recording.first)
        return abs(regress(gradient, exact)[0])
    except Skip:
        return None
