"""TS401 model.logits_finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session, objective_of
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.model.companions import Companions
from trainsanity.measurements.model.first_outputs import FirstOutputs
from trainsanity.measurements.model.forward import Forward
from trainsanity.measurements.model.head import weight_values
from trainsanity.objectives.base import SINGLE_LABEL
from trainsanity.proofs import Repair
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


COARSE = 2.0**23
"""Where float32 numbers are 1 apart: a difference of 1 between logits is a factor of e between
probabilities."""


@check("TS401", "model.logits_finite", cost=Cost.FORWARD, rules_out="head initialisation")
def logits_finite(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Head weights and logits are finite, not too large, and no probabilities.

    What it checks: every weight of the head and every logit of the first optimizer step's rows. For
    other models than classifiers of rows: the model's first output for a few rows of the first
    micro-batch, which may be minus infinity where it marks what cannot occur, and no more is asked;
    where the batch is no rows side by side, as a packed one, its logits as it lies.

    Why it matters: one NaN makes the loss NaN, and the Trainer's ``logging_nan_inf_filter`` logs a
    plausible number in its place.  Cross entropy takes a softmax of what it is given: of C
    probabilities it cannot fall below log(1 + (C - 1) / e), and learning crawls.

    How it is measured: ``isfinite``, exactly, on an evaluation forward; and whether the C numbers
    of every row are not negative and add up to 1, but for four roundings of their dtype.  Logits
    of 2^23 and more are 1 apart in float32, the unit in their last place: whatever that rounds
    changes a probability by a factor of e, and the comparisons of the model stage would hold
    roundings against roundings.

    How to fix: initialise what the checkpoint did not bring; a model built on the meta device and
    a head added after loading are where it is forgotten.  Return the logits from before the
    softmax.

    Known false alarms: a mask of -inf on logits that cannot occur; a model whose own loss takes
    probabilities.

    References: huggingface/transformers#46002, huggingface/transformers#28244;
    torch.nn.CrossEntropyLoss, which takes logits.
    """
    if objective_of(pipeline).name != SINGLE_LABEL:
        yield from _first_outputs(_seen(pipeline))
        return
    forward: Forward = Session.of(pipeline).measurements.get("forward")
    weight = weight_values(pipeline.model.get_submodule(forward.head_name))
    if weight.is_meta:  # offloaded: the logits show it
        weight = weight.new_zeros(0, device="cpu")
    bad_weights, bad_logits = (
        int((~weight.isfinite()).sum()),
        int((~forward.logits.isfinite()).sum()),
    )
    seen = {"head_weights": bad_weights, "logits": bad_logits}
    size = float(forward.logits.abs().max()) if forward.logits.numel() else 0.0
    rows = len(forward.logits)
    probabilities = _probabilities(forward)
    if bad_weights or bad_logits:
        yield Finding(
            f"{bad_weights} of {weight.numel()} head weights and {bad_logits} of "
            f"{forward.logits.numel()} logits are not finite",
            observed=seen,
            expected={"head_weights": 0, "logits": 0},
            where=f"{forward.head_name}.weight" if bad_weights else "the model's output",
            cause="the head was never initialised, or was loaded into memory that was not"
            if bad_weights
            else "an overflow or an uninitialised tensor below the head",
            fix="initialise it: model.score.weight.data.normal_(0, config.initializer_range)"
            if bad_weights
            else "run the forward with torch.autograd.detect_anomaly, or in float32",
            repairs=(_drawn(f"{forward.head_name}.weight"),) if bad_weights else (),
        )
    elif size >= COARSE:
        yield Finding(
            f"the largest of {forward.logits.numel()} logits is {size:.3g}: float32 numbers of "
            "that size are 1 apart or more, and a softmax of them is a matter of rounding",
            observed=size,
            expected=f"below {COARSE:.3g}",
            where="the model's output",
            cause="a weight below the head is uninitialised memory, or has overflowed",
            fix="find the first module whose output is as large, and initialise its weights",
        )
    elif probabilities == rows:
        yield Finding(
            "the logits of every row are not negative and add up to 1: they are probabilities, and "
            "the loss takes a softmax of them once more",
            observed="probabilities",
            expected="logits",
            where="the model's output",
            cause="a softmax between the head and the loss",
            fix="return what the head makes; take the softmax where probabilities are wanted",
            repairs=(repair("the last Softmax module is an Identity", "softmax_removed"),),
        )
    yield Measured(
        f"{bad_weights} of {weight.numel()} head weights and {bad_logits} of "
        f"{forward.logits.numel()} logits are not finite; {probabilities} of {rows} rows of logits "
        "are probabilities",
        seen,
        {"head_weights": 0, "logits": 0},
    )


def _seen(pipeline: Pipeline) -> Companions | FirstOutputs:
    """Return the outputs for the first rows, or for the batch as it lies if it has no rows."""
    measurements = Session.of(pipeline).measurements
    try:
        rows: Companions = measurements.get("companions")
    except Skip:
        whole: FirstOutputs = measurements.get("first_outputs")
        return whole
    return rows


def _first_outputs(seen: Companions | FirstOutputs) -> Iterator[Measured | Finding]:
    """Hold the numbers of a model's first output against being none."""
    if seen.no_numbers:
        yield Finding(
            f"{seen.no_numbers:,} of {seen.outputs:,} outputs for the first rows are no finite "
            "numbers",
            observed=seen.no_numbers,
            expected=0,
            where="the model's first output, in evaluation mode",
            cause="an overflow, or a weight that was never initialised",
            fix="run the forward with torch.autograd.detect_anomaly, or in float32",
        )
    yield Measured(
        f"{seen.no_numbers:,} of {seen.outputs:,} outputs for the first rows are no finite numbers",
        seen.no_numbers,
        0,
    )


def _drawn(name: str) -> Repair:
    return repair(f"{name} drawn anew", "drawn_anew", names=(name,))


def _probabilities(forward: Forward) -> int:
    """Return how many rows of logits have been through a softmax."""
    import torch

    rounding = MARGIN * torch.finfo(forward.passes[0].logits.dtype).eps
    sums = forward.logits.sum(-1)
    return int(((forward.logits >= 0).all(-1) & ((sums - 1).abs() <= rounding)).sum())
