"""TS501 loss.initial_is_uninformed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import STANDARD_ERRORS, within
from trainsanity.maths.uninformed import uninformed
from trainsanity.measurements.data.label_prior import label_prior
from trainsanity.measurements.model.forward import Forward
from trainsanity.objectives.base import require_single_label
from trainsanity.types import Cost, Finding, Judges, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


ROUNDED_TO_ZERO = 1e-9
"""Nats below which a difference of float64 sums of a few hundred terms is their rounding."""


@check(
    "TS501",
    "loss.initial_is_uninformed",
    cost=Cost.FORWARD,
    requires=("dataset.labels_in_range", "model.logits_finite"),
    rules_out="head initialisation",
    judges=Judges.LOSS,
)
def initial_is_uninformed(pipeline: Pipeline, forward: Forward) -> Iterator[Measured | Finding]:
    """The first loss is no higher than that of a head that knows nothing.

    What it checks: the reference loss of the first step's rows against the loss that the same
    logits would have if they said nothing about the labels.

    Why it matters: log C alone is not the answer (a head drawn at random adds s^2 / 2), and
    "within a factor of it" lets real faults through.  A first loss above the uninformed one means
    that the outputs are tied to the wrong labels.

    How it is measured: per row, loss - (logsumexp(z) - sum_c p_c z_c) = sum_c p_c z_c - z_y, with
    p the label shares of the training set where they can be counted and equal shares otherwise.
    Its mean over N rows is 0 for a head that knows nothing, with the variance
    sum_i (sum_c p_c z_ic^2 - (sum_c p_c z_ic)^2) / N^2, known exactly from the same logits; the
    band is four standard errors.  A loss below it passes: the head knows something already.

    How to fix: make ``label2id`` of model and dataset the same; load the head that belongs to
    these labels, or draw a new one.

    Known false alarms: none known above the band; below it a warm start is what one would expect.

    References: huggingface/transformers#46002; scikit-learn's DummyClassifier for the idea.
    """
    require_single_label(objective_of(pipeline))
    loss = float(forward.losses.mean())  # first: it skips where the labels are another loss's
    prior = label_prior(pipeline, forward.logits.shape[1])
    random = uninformed(*forward.labelled, prior)
    allowed = STANDARD_ERRORS * random.error + ROUNDED_TO_ZERO
    if not (within(random.gap, allowed) and math.isfinite(loss)):
        yield Finding(
            f"the first loss is {loss:.3f}; logits that say nothing about the labels "
            f"would give {random.loss:.3f} +- {random.error:.3f}",
            observed=loss,
            expected=random.loss,
            factor=loss / random.loss,
            cause="the outputs point away from the rows' own labels, as where the head belongs to "
            "other labels than the dataset's",
            fix="compare model.config.label2id with the dataset's names, or draw a new head",
        )
    yield Measured(
        f"first loss {loss:.3f}, uninformed {random.loss:.3f} +- {random.error:.3f}, "
        f"log {len(prior)} = {math.log(len(prior)):.3f}",
        loss,
        random.loss,
    )
