"""TS603 gradient.clipping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.gradient._scale import (
    exact_head_gradient,
    norm_at_the_right_scale,
    rounding_of_norms,
)
from trainsanity.engine.registry import check
from trainsanity.maths.regression import regress
from trainsanity.measurements.step.steps import Recording, Step
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


KEPT = 0.01
"""Least share of the gradient that clipping keeps without a warning.  Chosen, not measured: below
it a learning rate that was tuned without clipping is a hundred times too large for SGD."""


ALIKE = 1e-5
"""Relative: how near two shares come that are one factor; each is a quotient of two norms, rounded
to float32, and the shares of a limit differ as the norms of two steps do, by percents."""


@check(
    "TS603",
    "gradient.clipping",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    explained_by=("gradient.head_closed_form",),
    rules_out="clipping",
)
def clipping(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Clipping leaves the norm that ``max_grad_norm`` says, and some of the gradient.

    What it checks: the total norm after clipping against min(norm, max_grad_norm), that nothing
    else clipped before, and which share of the gradient is kept.

    Why it matters: a clip that does not happen lets a single bad batch through.  A limit of 0
    switches clipping off in TrainingArguments, and makes torch's ``clip_grad_norm_`` multiply all
    gradients by 0: no weight moves, and the loss stays where it is.  A clip that keeps
    less than a percent in every step makes all steps the same length and hides what happened
    before it.  AdamW divides by the gradient's size, so that its steps stay as they were and the
    run is not broken: that is a warning.  SGD's steps become a hundred times smaller.

    How it is measured: both norms are computed from the gradients themselves, before and after.
    Clipping multiplies by max_grad_norm / (norm + 1e-6); the rounding of the dtype is allowed.
    A gradient that is too short by the head's closed form (TS601), and already has the norm
    max_grad_norm before the Trainer clips, was clipped by something else.  The share that is kept
    is judged at the right scale of the loss: where TS502 or TS601 found a factor of 12, the norm
    is divided by it first, because the cure is the factor and not the clip.  It warns if less than
    1 % is kept in every recorded step.  In a loop of one's own a clip is seen where it is torch's:
    what it was given, and that all gradients are zeros when the optimizer steps.

    How to fix: repair the loss's scale first (TS502), then choose ``max_grad_norm`` from the norms
    that are seen in healthy steps.  In a loop, a list and a limit above 0::

        # bad: the optimizer has read the generator, and nothing is left to clip
        trained = (p for p in model.parameters() if p.requires_grad)
        # good
        trained = [p for p in model.parameters() if p.requires_grad]

    A loop that declares no max_grad_norm may limit its gradients as it likes; it warns where they
    become longer, or shorter by the same factor in each step.

    Known false alarms: beside a max_grad_norm, clipping by value or per parameter group.  Large
    models start with norms of a hundred and more and are trained with max_grad_norm 1: the warning
    can be accepted there.

    References: torch.nn.utils.clip_grad_norm_; pytorch/pytorch#148259, OpenNMT/OpenNMT-py#1140.
    """
    if recording.not_clipped_apart:
        raise Skip(recording.not_clipped_apart)
    step = recording.first
    norm, after = step.norm_before_clip, step.norm_after_clip
    limit = pipeline.args.max_grad_norm or 0.0
    expected = min(norm, limit) if limit > 0 else norm
    eps = rounding_of_norms(step, pipeline)
    # A clip makes something finite even of an infinite norm.
    sound = math.isfinite(norm) and not math.isnan(limit)
    clipped = sound and abs(after - expected) <= eps * expected
    undeclared = pipeline.trainer is None and not limit
    if math.isinf(norm) and after == 0:
        yield Finding(
            "the gradient's norm is infinite, and the clip makes zeros of all gradients",
            observed=norm,
            expected="a finite norm",
            where="step 1, before clipping",
            cause="single gradients are so large that their squares overflow",
            fix="find the micro-batch and its rows with torch.autograd.detect_anomaly; a CTC loss "
            "of targets that are longer than their input does this",
        )
    elif sound and _nothing_left(recording):
        yield Finding(
            f"no gradient is left when the optimizer steps: their norm was {norm:.4f} after the "
            f"backward pass and is 0 in each of {len(recording.steps)} recorded steps; no weight "
            "moves by them",
            observed=0.0,
            expected=expected or norm,
            factor=0.0,
            where="step 1, after clipping",
            cause="clip_grad_norm_ is given the limit 0, by which torch multiplies all gradients"
            if step.clip_given is not None
            else "something between the backward pass and the step makes zeros of all gradients",
            fix="leave the clip out where the limit is 0, or choose one from the norms of healthy "
            "steps",
        )
    elif not clipped and not undeclared:
        yield Finding(
            f"the gradient's norm is {after:.4f} when the optimizer steps; "
            f"max_grad_norm {limit:g} makes it {expected:.4f}",
            observed=after,
            expected=expected,
            factor=after / expected if expected else None,
            where="step 1, after clipping",
            cause="clip_grad_norm_ was given other parameters, or was called too late or never",
            fix="clip all trainable parameters once, after the last backward of the step",
        )
    elif not clipped and not _limits(recording):
        yield Finding(
            f"the gradient's norm is {norm:.4f} after the backward pass and {after:.4f} when the "
            "optimizer steps",
            observed=after,
            expected=norm,
            factor=after / norm if norm else None,
            where="step 1",
            cause="the loop changes gradients between its backward pass and the optimizer's step, "
            "and not as a limit on them does: they are longer, or by the same factor in each step",
            fix="nothing, if that is meant; otherwise step with the gradients as they are",
            # Centralised gradients, a factor of one's own: a loop may do so on purpose.
            severity=Severity.WARNING,
        )
    if all(one.clip_given is not None and not one.clip_given[1] for one in recording.steps):
        count = step.clip_given[0] if step.clip_given else 0
        yield Finding(
            f"clip_grad_norm_ is given {count} tensors, none of which has a gradient, in each of "
            f"{len(recording.steps)} recorded steps: the norm {norm:.4f} is not limited",
            observed=count,
            expected="the parameters that are trained",
            where="step 1, at the clip",
            cause="a generator that was read before, by the optimizer for one, yields nothing more"
            if not count
            else "they are parameters of something else than what is trained",
            fix="pass model.parameters(), or a list of the parameters instead of a generator",
            # A loop may clip a part alone, and that part be frozen for now.
            severity=Severity.WARNING if count else Severity.FAILURE,
        )
    if recording.clipped_late is not None:
        yield Finding(
            f"the gradient is clipped to {recording.clipped_late:g} after the optimizer used it",
            observed="after optimizer.step()",
            expected="before optimizer.step()",
            where="step 1",
            cause="clip_grad_norm_ is called between the optimizer's step and the next backward "
            "pass, where it changes nothing that is trained",
            fix="call clip_grad_norm_ between the last backward pass and optimizer.step()",
        )
    exact = exact_head_gradient(pipeline, recording, step)
    slope = None if exact is None else abs(regress(step.head_gradient, exact)[0])
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
    shares = [_share(pipeline, recording, one, limit) for one in recording.steps]
    if clipped and limit > 0 and all(share is not None and share < KEPT for share in shares):
        yield Finding(
            f"max_grad_norm {limit:g} keeps {shares[0]:.2%} of the gradient in step 1, and less "
            f"than {KEPT:.0%} in each of {len(shares)} recorded steps",
            observed=shares,
            expected=f"at least {KEPT:.0%}",
            where="max_grad_norm",
            cause="max_grad_norm is far below the norms of this model's gradients",
            fix="choose max_grad_norm from the norms of healthy steps, or 0 to switch clipping off",
            severity=Severity.WARNING,
        )
    kept = after / norm if norm else 1.0  # of zeros all is kept: gradient.not_zero judges them
    scaled = "" if shares[0] is None else f"; at the loss's right scale {shares[0]:.1%}"
    if pipeline.trainer is None and all(
        0 < one.norm_before_clip <= limit for one in recording.steps
    ):
        # The loop's own clip may be missing, and no step here would show that.
        scaled += "; that norm is below it, so that these steps do not show whether the loop clips"
    yield Measured(
        f"the loop declares no max_grad_norm; its optimizer steps with {kept:.1%} of a gradient of "
        f"norm {norm:.3f}"
        if undeclared
        else f"max_grad_norm {limit:g} keeps {kept:.1%} of a gradient of norm {norm:.3f}{scaled}",
        {"norm": norm, "kept": kept, "norms": [one.norm_before_clip for one in recording.steps]},
        {"norm_after": expected},
    )


def _nothing_left(recording: Recording) -> bool:
    """Return whether the optimizer finds zeros, in all steps, where backward passes left gradients.

    One that holds tensors of its own, in float32 for one, may take the gradients over.
    """
    return not recording.update.apart and all(
        one.norm_before_clip > 0 and one.norm_after_clip == 0 for one in recording.steps
    )


def _limits(recording: Recording) -> bool:
    """Return whether gradients become shorter, and not by one factor in all steps.

    By norm, by value, of a part of the parameters: a limit takes more of a longer gradient.
    """
    shares = [
        one.norm_after_clip / one.norm_before_clip
        for one in recording.steps
        if one.norm_before_clip > 0
    ]
    if not shares or not all(0 < share <= 1 for share in shares):
        return False
    return len(shares) == 1 or max(shares) - min(shares) > ALIKE * max(shares)


def _share(pipeline: Pipeline, recording: Recording, step: Step, limit: float) -> float | None:
    """Return the share that clipping keeps at the right scale; None where that is not known."""
    norm = norm_at_the_right_scale(pipeline, recording, step)
    if norm is None:
        return None
    return min(1.0, limit / norm) if limit > 0 and norm > 0 else 1.0
