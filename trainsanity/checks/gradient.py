"""TS6: the gradient that reaches the optimizer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..factors import name_factor, told
from ..measurements.head import is_tied
from ..measurements.recording import Recording, Step, reference
from ..registry import check
from ..tolerances import REDUCTIONS, head_gradient_floor, regress, within
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
    requires=("dataset.labels_in_range", "gradient.finite"),
    explained_by=("model.logits_spread", "loss.matches_reference"),
    acquits="gradient direction",
)
def head_closed_form(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
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
        yield Seen(
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
    off_scale, off_axis = head_gradient_floor(pipeline.task, right, gradient.dtype, exact)
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
    acquits="gradient norm",
)
def norm_within_bounds(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
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
    yield Seen(f"total norm {norm:.3f}, between {low:.3f} and {high:.3f}", norm, bounds)


@check(
    "TS603",
    "gradient.clipping",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    explained_by=("gradient.head_closed_form",),
    acquits="clipping",
)
def clipping(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
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
    yield Seen(told, {"norm": norm, "kept": kept}, {"norm_after": expected})


@check(
    "TS604",
    "gradient.finite",
    cost=Cost.STEP,
    requires=("loss.finite",),
    acquits="gradient norm",
)
def finite(recording: Recording) -> Iterator[Seen | Finding]:
    """Every gradient is made of numbers.

    What it checks: all gradients of the recorded optimizer steps, before the optimizer uses them.

    Why it matters: one NaN spreads through the clip to every parameter, and the weights are lost
    with the next step while the logged loss can look healthy.

    How it is measured: ``isfinite``, exactly.

    How to fix: ``torch.autograd.detect_anomaly`` names the operation; square roots and norms at
    zero have a finite value and no finite derivative.

    Known false alarms: float16 with a loss scaler skips such steps by design.

    References: torch.autograd.detect_anomaly.
    """
    parameters = recording.update.parameters
    bad = [p.name for p in parameters if not p.finite]
    if bad:
        yield Finding(
            f"{len(bad)} of {len(parameters)} gradients are not finite",
            observed=len(bad),
            expected=0,
            where=", ".join(bad[:3]),
            cause="an operation whose derivative is infinite where its value is not",
            fix="find it with torch.autograd.detect_anomaly",
        )
    yield Seen(f"{len(parameters)} of {len(parameters)} gradients are finite", len(bad), 0)


@check(
    "TS605",
    "gradient.reaches_every_parameter",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    acquits="gradient direction",
)
def reaches_every_parameter(recording: Recording) -> Iterator[Seen | Finding]:
    """Every trainable parameter receives a gradient.

    What it checks: that no trainable parameter has ``grad is None`` after the backward passes of
    the first optimizer step.

    Why it matters: gradient checkpointing over inputs that need no gradient, a ``detach`` or a
    ``no_grad`` in the wrong place cut the model in two.  What lies below never learns.

    How it is measured: exact.

    How to fix: ``model.enable_input_require_grads()`` with checkpointing and frozen embeddings, or
    ``use_reentrant=False``; remove the ``detach``.

    Known false alarms: parameters that this task does not use (a pooler, an expert that no token
    was sent to).  Freeze them, or name the check in expected_failures.

    References: huggingface/transformers#42489, huggingface/transformers#21381.
    """
    trainable = [p for p in recording.update.parameters if p.trainable]
    cut = [p.name for p in trainable if not p.has_gradient]
    if cut:
        yield Finding(
            f"{len(cut)} of {len(trainable)} trainable parameters receive no gradient",
            observed=len(trainable) - len(cut),
            expected=len(trainable),
            where=", ".join(cut[:3]),
            cause="the graph is cut: a detach, a no_grad, or checkpointing over frozen inputs",
            fix="model.enable_input_require_grads(), or use_reentrant=False for checkpointing",
        )
    yield Seen(f"{len(trainable)} of {len(trainable)} trainable parameters receive a gradient",
               len(trainable), len(trainable))  # fmt: skip


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


def closed_form(pipeline: Pipeline, head_name: str, step: Step) -> Any:
    """The head's gradient from logits, targets and head inputs alone, ``[C, H]`` float64.

    Raises:
        Skip: the head's gradient has another part, or what the head read was not visible.
    """
    if is_tied(pipeline, head_name):
        raise Skip("the head is tied to the embedding, whose gradient has a part of its own")
    right = reference(pipeline, step)
    if any(items.vectors is None for items in right.parts):
        raise Skip("which vectors the head read was not visible in the step")
    products = [
        weight * (pipeline.task.residual(items.logits, items.targets).T @ items.vectors.double())
        for items, weight in zip(right.parts, right.weights, strict=True)
        if items.vectors is not None and items.logits is not None
    ]
    return sum(products[1:], start=products[0])


def _eps(step: Step, pipeline: Pipeline) -> float:
    """Relative rounding of a norm of gradients in the dtype that they were computed in.

    Scaling by the clip rounds every element once, by half a unit in the last place at most; the
    norm of the result is off by no more than one unit relative.  Under autocast the head's dtype
    is coarser than the weights'.  The reductions run in float32.
    """
    import torch

    dtypes = [pipeline.dtype, *(m.items.dtype for m in step.micro_steps if m.items is not None)]
    return max(float(torch.finfo(dtype).eps) for dtype in dtypes) + REDUCTIONS
