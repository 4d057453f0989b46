"""TS5: the loss that the Trainer logs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..factors import name_factor, told
from ..measurements.forward import Forward
from ..measurements.recording import Recording, Step, reference
from ..registry import check
from ..tasks import require_single_label
from ..tolerances import STANDARD_ERRORS, logged_loss_rounding, within
from ..types import Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline

ROUNDED_TO_ZERO = 1e-9
"""Nats below which a difference of float64 sums of a few hundred terms is their rounding."""

NEAR_ONE = 0.05
"""Factors this near to 1 are printed with four decimals; it decides nothing else."""


@check(
    "TS501",
    "loss.initial_is_uninformed",
    cost=Cost.FORWARD,
    requires=("dataset.labels_in_range", "model.logits_finite"),
    acquits="head initialisation",
)
def initial_is_uninformed(pipeline: Pipeline, forward: Forward) -> Iterator[Seen | Finding]:
    """The first loss is no worse than that of a head that knows nothing.

    What it checks: the reference loss of the first step's rows against the loss that the same
    logits would have if they said nothing about the labels.

    Why it matters: log C alone is not the answer (a head drawn at random adds s^2 / 2), and
    "within a factor of it" lets real faults through.  A first loss above the uninformed one means
    that the outputs are tied to the wrong labels.

    How it is measured: per row, loss - (logsumexp(z) - sum_c p_c z_c) = sum_c p_c z_c - z_y, with
    p the label shares of the training set where they can be counted and equal shares otherwise.
    Its mean over N rows is 0 for a head that knows nothing, with the variance
    sum_i (sum_c p_c z_ic^2 - (sum_c p_c z_ic)^2) / N^2, known exactly from the same logits; the
    band is four standard errors.  A loss below it is told and passes: the head knows something.

    How to fix: make ``label2id`` of model and dataset the same; load the head that belongs to
    these labels, or draw a new one.

    Known false alarms: none known above the band; below it a warm start is what one would expect.

    References: huggingface/transformers#46002; scikit-learn's DummyClassifier for the idea.
    """
    require_single_label(pipeline)
    prior = label_prior(pipeline, forward.logits.shape[1])
    z = forward.logits
    known = (z * prior).sum(-1)
    spread = ((z * z * prior).sum(-1) - known**2).clamp(min=0)
    uninformed = float((z.logsumexp(-1) - known).mean())
    gap = known - z.gather(-1, forward.labels[:, None])[:, 0]
    mean, error = float(gap.mean()), float(spread.sum().sqrt() / len(gap))
    loss = float(forward.losses.mean())
    allowed = STANDARD_ERRORS * error + ROUNDED_TO_ZERO
    if not (within(mean, allowed) and math.isfinite(loss)):
        yield Finding(
            f"the first loss is {loss:.3f}; logits that say nothing about the labels "
            f"would give {uninformed:.3f} +- {error:.3f}",
            observed=loss,
            expected=uninformed,
            factor=loss / uninformed,
            cause="the head's outputs belong to other labels than the dataset's",
            fix="compare model.config.label2id with the dataset's names, or draw a new head",
        )
    informed = ", so the head already knows something" if mean < -STANDARD_ERRORS * error else ""
    yield Seen(
        f"first loss {loss:.3f}, uninformed {uninformed:.3f} +- {error:.3f}, "
        f"log {len(prior)} = {math.log(len(prior)):.3f}{informed}",
        loss,
        uninformed,
    )


def label_prior(pipeline: Pipeline, size: int) -> Any:
    """Label shares of the training set (``[C]`` float64); equal shares where it has no column."""
    import numpy
    import torch

    equal = torch.full((size,), 1 / size, dtype=torch.float64)
    data = pipeline.train_dataset
    names = getattr(data, "column_names", None)
    column = pipeline.label_column(dict.fromkeys(names)) if names else None
    if column is None or not hasattr(data, "__len__"):
        return equal
    labels = numpy.asarray(data.with_format("numpy")[column][:])
    if not numpy.issubdtype(labels.dtype, numpy.integer):
        return equal
    counts = numpy.bincount(labels[(labels >= 0) & (labels < size)], minlength=size)
    return torch.from_numpy(counts / counts.sum()) if counts.sum() else equal


@check(
    "TS502",
    "loss.matches_reference",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "model.logits_finite", "loss.finite"),
    acquits="loss scale",
)
def matches_reference(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
    """The loss that the Trainer logs is the mean over the examples of the step.

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

    How to fix: the finding says which switch the Trainer took.  For a model whose forward takes
    ``**kwargs`` but whose loss ignores ``num_items_in_batch``, set
    ``model.accepts_loss_kwargs = False`` before the Trainer is built.

    Known false alarms: class weights and auxiliary losses are no plain mean.

    References: huggingface/transformers#47688, #37766, #37110, #46204, #46731;
    NVIDIA-NeMo/Automodel#3829.
    """
    if not recording.first.logged:
        raise Skip("no loss was logged for the first step")
    judged = []
    for number, step in enumerate(recording.steps, 1):
        if number > 1 and not step.judgeable:
            break
        right = reference(pipeline, step)
        expected, observed = right.mean, step.logged["loss"]
        judged.append((observed, right))
        allowed = logged_loss_rounding(step.micro_steps)
        if within(abs(observed - expected), allowed):
            continue
        factor = observed / expected if expected else math.nan
        tolerance = max(allowed / expected, 1e-3) if expected else 1e-3
        yield Finding(
            f"the Trainer logs a loss of {observed:.4f} for step {number}; "
            f"the {right.words} is {expected:.4f}: "
            + (f"{factor:.4f} x" if abs(factor - 1) < NEAR_ONE else f"{factor:.2f} x"),
            observed=observed,
            expected=expected,
            factor=factor,
            where=f"step {number}",
            **_explain(
                pipeline, recording, step, count=right.count, factor=factor, tolerance=tolerance
            ),
        )
        break
    observed, right = judged[0]
    steps = f"; equally in {len(judged)} steps" if len(judged) > 1 else ""
    if recording.out_of_memory:
        steps = "; a second step did not fit in the device's memory"
    yield Seen(
        f"logged loss {observed:.4f}, {right.words} {right.mean:.4f}{steps}",
        observed,
        right.mean,
    )


@check(
    "TS503",
    "loss.finite",
    cost=Cost.STEP,
    requires=("model.logits_finite",),
    acquits="loss scale",
)
def finite(recording: Recording) -> Iterator[Seen | Finding]:
    """Every micro-batch's loss is a number.

    What it checks: the loss of each micro-batch of the recorded optimizer steps, as
    ``training_step`` returned it.

    Why it matters: ``logging_nan_inf_filter`` is on by default: where a loss is NaN or infinite the
    Trainer logs the average of the earlier ones in its place, and the gradient is NaN all the same.

    How it is measured: ``isfinite`` on each micro-batch's loss, before the filter.

    How to fix: run the named micro-batch alone with ``torch.autograd.detect_anomaly``; rows with
    nothing to learn from (all labels -100) and logarithms of zero are where to look.

    Known false alarms: none known.

    References: ``TrainingArguments.logging_nan_inf_filter``.
    """
    several = any(micro.rank for micro in recording.first.micro_steps)
    losses = [
        (
            micro.loss,
            f"micro-batch {k} of step {number}" + (f", process {micro.rank}" if several else ""),
            step,
        )
        for number, step in enumerate(recording.steps, 1)
        for k, micro in enumerate(step.micro_steps)
    ]
    bad = [seen for seen in losses if not math.isfinite(seen[0])]
    if bad:
        loss, where, step = bad[0]
        logged = step.logged.get("loss", math.nan)
        yield Finding(
            f"{len(bad)} of {len(losses)} micro-batches have a loss of {loss}; "
            f"the Trainer logs {logged:.4f} all the same",
            observed=loss,
            expected="a number",
            where=where,
            cause="nothing to average (all labels -100), or a logarithm or division of zero",
            fix="look at that micro-batch's rows; logging_nan_inf_filter=False shows it in the log",
        )
    yield Seen(f"{len(losses)} of {len(losses)} micro-batch losses are finite",
               len(losses) - len(bad), len(losses))  # fmt: skip


def _explain(
    pipeline: Pipeline,
    recording: Recording,
    step: Step,
    *,
    count: int,
    factor: float,
    tolerance: float,
) -> dict[str, Any]:
    """Cause and fix, as far as the factor and the Trainer's own switches tell."""
    items = step.micro_steps[0].num_items_in_batch
    if items and items != count and abs(factor * items / count - 1) <= tolerance:
        return {
            "cause": f"{factor:.4f} is {count} / {items:g}: the loss sums over {count} "
            f"{pipeline.task.counts} and is divided by num_items_in_batch = {items:g}, which "
            "counts labels that the loss does not (before the shift, or ignored ones)",
            "fix": "count the labels that the loss counts: labels[..., 1:] != -100",
        }
    names = name_factor(factor, recording.facts(pipeline), tolerance)
    if not names:
        return {"cause": None, "fix": "compare what compute_loss returns with the plain mean"}
    cause = told(factor, names)
    accepts = getattr(pipeline.trainer, "model_accepts_loss_kwargs", False)
    if factor > 1 and items is not None and accepts:
        cause += (
            ", which is not divided out: the Trainer passes num_items_in_batch "
            f"({items:g}) because forward takes **kwargs, and skips its own division; the "
            "model's loss ignores that number and returns the micro-batch's mean"
        )
        fix = "model.accepts_loss_kwargs = False, before the Trainer is built"
    elif factor > 1:
        cause += ", which is not divided out"
        fix = (
            "return the sum over the micro-batch divided by num_items_in_batch from compute_loss, "
            "or the plain mean with loss_is_scaled_for_ga = False where the Trainer has it"
        )
    else:
        cause += ", which is divided out twice"
        fix = "divide once: leave it to the Trainer, or to compute_loss"
    return {"cause": cause, "fix": fix, "candidates": tuple(names)}
