"""TS405 model.batch_equals_single."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.model._invariances import mixes_by_design
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference
from trainsanity.measurements.model.singles import Singles
from trainsanity.types import Abstain, Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS405",
    "model.batch_equals_single",
    cost=Cost.FORWARD,
    requires=("collator.mask_is_exact", "model.right_token_pooled", "model.padding_invariance"),
    rules_out="attention mask",
)
def batch_equals_single(pipeline: Pipeline, singles: Singles) -> Iterator[Measured | Finding]:
    """A row's logits do not depend on the rows beside it.

    What it checks: logits of a few rows (the shortest, the longest, some between) inside the
    training batch against the same rows alone.

    Why it matters: a mask that is ignored, positions counted from the padding, or batch statistics
    make a row's outputs depend on its neighbours, and a model that is served one text at a time
    computes something else than it was trained to.

    How it is measured: greatest absolute difference, in float32 whatever is trained in.  The noise
    is measured here, too: each row alone against itself in a batch of its own copies, where nothing
    is padded and a correct model differs by arithmetic only.  Four times that is allowed, or four
    times what moving every weight by one unit in its last place makes of the logits, times
    n^(1/4) for the longest sum of n terms.  More noise than the order of float32 sums makes (64
    units of the largest logit), and than those roundings, is no noise but a model that mixes rows:
    it fails, and lifts no bound.  Where float32 cannot be had, four units in the last place of the
    training dtype are allowed, and the message says so.

    How to fix: find the layer that mixes rows; batch normalisation needs running statistics.
    model.mask_is_obeyed and model.padding_invariance judge padding by itself.

    A model of transformers' own whose convolutions reach over the end of a text takes in padding by
    design: a warning.

    Known false alarms: batch normalisation in train mode does this by design.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    allowed = singles.allowed
    compared = Difference(float((singles.alone - singles.batched).abs().max()), allowed)
    several = len(singles.rows) > 1
    between = float(singles.alone.std(dim=0).mean()) if several else math.inf
    if allowed >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {allowed:.2g} would hide"
        )
    noise = Difference(singles.noise, singles.allowed_noise)
    if not noise.explained:
        yield Finding(
            f"logits of a row alone change when copies of it stand beside it: {noise}",
            observed=noise.greatest,
            expected=f"at most {noise.allowed:.3g}",
            where=f"rows {singles.rows} of the first step",
            cause="the number of rows goes into their logits: a sum or a mean over the whole batch",
            fix="reduce over positions only: mask.sum(1, keepdim=True), not mask.sum()",
        )
    elif not compared.explained:
        convolution = mixes_by_design(pipeline)
        yield Finding(
            f"logits of the same row change when other rows stand beside it: {compared}",
            observed=compared.greatest,
            expected=f"at most {allowed:.3g}",
            where=f"rows {singles.rows} of the first step",
            cause=f"the convolution {convolution} takes padding in, as this model was made"
            if convolution
            else "a layer mixes rows: statistics over the batch in eval mode, or a wrong axis",
            fix="pad to the same width wherever the model is used"
            if convolution
            else "compute statistics per row, or keep running ones (track_running_stats=True)",
            severity=Severity.WARNING if convolution else Severity.FAILURE,
        )
    yield Measured(
        f"logits of {len(singles.rows)} rows in the batch and alone: {compared} "
        f"(noise {singles.noise:.2g}){singles.precision}",
        compared.greatest,
        allowed,
    )
