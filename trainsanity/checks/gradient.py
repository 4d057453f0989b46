"""TS6: the gradient that reaches the optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..factors import name_factor
from ..measurements.trainer_step import TrainerStep
from ..registry import check
from ..tasks import per_example_loss, residual
from ..tolerances import head_gradient_floor, regress
from ..types import Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline

WORTH_TELLING = 0.05
"""A slope this far from 1 is told beside the share that clipping keeps.  It decides nothing, only
keeps the 0.3 % of bfloat16 out of the sentence."""


@check(
    "TS601",
    "gradient.head_closed_form",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("dataset.labels_in_range", "model.logits_finite"),
    explained_by=("model.logits_spread", "loss.matches_reference"),
    acquits="gradient direction",
)
def head_closed_form(pipeline: Pipeline, trainer_step: TrainerStep) -> Iterator[Seen | Finding]:
    """The head's gradient is the one that the mathematics gives, in size and direction.

    What it checks: the gradient that the Trainer accumulated on the head's weight in its first
    optimizer step, before clipping, against the closed form.

    Why it matters: it is the whole backward path seen at the one place where the answer is known
    exactly.  A wrong scale and a wrong direction are two different faults with different cures.

    How it is measured: for a linear head and mean cross entropy over N examples,
    dL/dW = (1/N) sum_i (softmax(z_i) - onehot(y_i)) h_i^T, with logits and head inputs recorded in
    that very step.  Regressing the accumulated gradient on it gives a slope (1 is right, 12 is
    twelve times too large) and a cosine (1 is right).  Allowed are four times the rounding that
    the same sum shows when it is accumulated in the gradient's dtype.

    How to fix: a slope is a matter of the loss's scale (see TS502); a cosine below 1 means that
    some micro-batches were lost, counted twice or zeroed.

    Known false alarms: auxiliary losses that reach the head change its gradient by design.

    References: huggingface/transformers#47688; C. M. Bishop, Pattern Recognition and Machine
    Learning (2006), section 4.3.4, for the formula.
    """
    exact = closed_form(trainer_step)
    gradient = trainer_step.head_gradient
    where = f"{trainer_step.head_name}.weight"
    if gradient is None:
        yield Finding(
            "the head received no gradient in the first step",
            observed=None,
            expected=float(exact.norm()),
            where=where,
            cause="it is frozen, or is not the layer that made the logits",
            fix="set requires_grad on the head before the optimizer is built",
        )
        return
    slope, cosine = regress(gradient, exact)
    off_scale, off_axis = head_gradient_floor(trainer_step.micro_steps, gradient.dtype, exact)
    seen: dict[str, Any] = {"slope": round(slope, 6), "cosine": round(cosine, 8)}
    if not cosine >= 1 - off_axis:
        yield Finding(
            f"the head's gradient points elsewhere than the closed form: cosine {cosine:.6f}",
            observed=seen,
            expected={"slope": 1, "cosine": 1},
            where=where,
            cause="micro-batches lost, counted twice, or zeroed between the backward passes",
            fix="zero gradients once per optimizer step, and return each micro-batch's own loss",
        )
    elif not abs(slope - 1) <= off_scale:
        names = name_factor(slope, pipeline.facts, max(off_scale, 1e-3))
        yield Finding(
            f"the head's gradient is {slope:.4f} x the closed form, in the right direction "
            f"(cosine {cosine:.6f})",
            observed=seen,
            expected={"slope": 1, "cosine": 1},
            where=where,
            factor=slope,
            cause=f"{slope:.2f} is {' or '.join(names)}" if names else "the loss is scaled",
            fix="make backward start from the mean over the examples of the optimizer step",
        )
    yield Seen(f"slope {slope:.4f}, cosine {cosine:.6f} against the closed form",
               seen, {"slope": 1, "cosine": 1})  # fmt: skip


@check(
    "TS602",
    "gradient.norm_within_bounds",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("dataset.labels_in_range", "model.logits_finite"),
    explained_by=("model.logits_spread", "loss.matches_reference"),
    acquits="gradient norm",
)
def norm_within_bounds(pipeline: Pipeline, trainer_step: TrainerStep) -> Iterator[Seen | Finding]:
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
    exact = closed_form(trainer_step)
    eps = _eps(trainer_step, pipeline)
    count = sum(len(m.labels) for m in trainer_step.micro_steps)
    trained = trainer_step.head_gradient is not None
    low, high = float(exact.norm()) if trained else 0.0, 0.0
    for micro in trainer_step.micro_steps:
        assert micro.pooled is not None
        mean = float(per_example_loss(micro.pooled.logits.cpu(), micro.labels).mean())
        scale = micro.backward_loss / mean
        high += len(micro.labels) / count * micro.gradient_norm / scale
    norm = trainer_step.norm_before_clip
    bounds = {"at_least": low * (1 - eps), "at_most": high * (1 + eps)}
    if not bounds["at_least"] <= norm <= bounds["at_most"]:
        side = "at_most" if norm > high else "at_least"
        slope = regress(trainer_step.head_gradient, exact)[0] if trained else 1.0
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
    logged = trainer_step.logged.get("grad_norm")
    if logged is not None and not abs(logged - norm) <= eps * norm:
        yield Finding(
            f"the Trainer logs grad_norm {logged:.4f}; the gradients have the norm {norm:.4f}",
            observed=logged,
            expected=norm,
            factor=logged / norm,
            where="step 1",
            cause="the norm is taken over other parameters, or at another moment",
            fix="log what clip_grad_norm_ returns",
        )
    yield Seen(f"total norm {norm:.3f}, between {low:.3f} and {high:.3f}", norm, bounds)


@check(
    "TS603",
    "gradient.clipping",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("model.logits_finite",),
    acquits="clipping",
)
def clipping(pipeline: Pipeline, trainer_step: TrainerStep) -> Iterator[Seen | Finding]:
    """Clipping leaves the norm that ``max_grad_norm`` says.

    What it checks: the total norm after clipping against min(norm, max_grad_norm), and tells which
    share of the gradient is kept.

    Why it matters: a clip that keeps half a percent is no fault of its own under AdamW, but it
    makes every step the same length and hides what happened before it.  A clip that does not
    happen lets a single bad batch through.

    How it is measured: both norms are computed from the gradients themselves, before and after.
    Clipping multiplies by max_grad_norm / (norm + 1e-6); the rounding of the dtype is allowed.

    How to fix: repair the loss's scale first (TS502), then choose ``max_grad_norm`` from the norms
    that are seen in healthy steps.

    Known false alarms: clipping by value or per parameter group.

    References: torch.nn.utils.clip_grad_norm_.
    """
    norm, after = trainer_step.norm_before_clip, trainer_step.norm_after_clip
    limit = pipeline.args.max_grad_norm
    expected = min(norm, limit) if limit and limit > 0 else norm
    eps = _eps(trainer_step, pipeline)
    if not abs(after - expected) <= eps * expected:
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
    if trainer_step.head_gradient is not None and norm:
        slope = abs(regress(trainer_step.head_gradient, closed_form(trainer_step))[0])
        if abs(slope - 1) > WORTH_TELLING:
            right = min(1.0, limit * slope / norm) if limit else 1.0
            told += f"; it would keep {right:.1%} at the right scale"
    yield Seen(told, {"norm": norm, "kept": kept}, {"norm_after": expected})


def closed_form(step: TrainerStep) -> Any:
    """``(1/N) sum_i (softmax(z_i) - onehot(y_i)) h_i^T`` over the step, ``[C, H]`` float64.

    Raises:
        Skip: the step did not show which vectors the head read.
    """
    if any(micro.pooled is None or micro.pooled.vector is None for micro in step.micro_steps):
        raise Skip("which vectors the head read was not visible in the step")
    count = sum(len(micro.labels) for micro in step.micro_steps)
    parts = [
        residual(m.pooled.logits.cpu(), m.labels).T @ m.pooled.vector.double().cpu()
        for m in step.micro_steps
        if m.pooled is not None and m.pooled.vector is not None
    ]
    return sum(parts[1:], start=parts[0]) / count


def _eps(step: TrainerStep, pipeline: Pipeline) -> float:
    """Relative rounding of a norm of gradients in the parameters' dtype.

    Scaling by the clip rounds every element once, by half a unit in the last place at most; the
    norm of the result is off by no more than one unit relative.  The reductions run in float32.
    """
    import torch

    floor = 64 * float(torch.finfo(torch.float32).eps)
    return float(torch.finfo(pipeline.dtype).eps) + floor
