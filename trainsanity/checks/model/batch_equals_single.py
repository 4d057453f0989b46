"""TS405 model.batch_equals_single."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, logits_difference
from trainsanity.measurements.model.singles import Singles
from trainsanity.types import Abstain, Cost, Finding, Measured

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

    How it is measured: greatest absolute difference.  The noise is measured here, too: each row
    alone against itself in a batch of its own copies, where nothing is padded and a correct model
    differs by arithmetic only.  Four times that, or torch.testing's relative tolerance for the
    dtype, is allowed.  If that is as large as the differences between rows, it abstains.

    How to fix: find the layer that mixes rows; batch normalisation needs running statistics.
    model.mask_is_obeyed and model.padding_invariance judge padding by itself.

    Known false alarms: batch normalisation in train mode does this by design.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    size = float(singles.alone.abs().max())
    allowed = logits_difference(pipeline.dtype, singles.noise, size)
    compared = Difference(float((singles.alone - singles.batched).abs().max()), allowed)
    several = len(singles.rows) > 1
    between = float(singles.alone.std(dim=0).mean()) if several else math.inf
    if allowed >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {allowed:.2g} would hide"
        )
    if not compared.explained:
        yield Finding(
            f"logits of the same row change when other rows stand beside it: {compared}",
            observed=compared.greatest,
            expected=f"at most {allowed:.3g}",
            where=f"rows {singles.rows} of the first step",
            cause="a layer mixes rows: statistics over the batch in eval mode, or a wrong axis",
            fix="compute statistics per row, or keep running ones (track_running_stats=True)",
        )
    yield Measured(
        f"logits of {len(singles.rows)} rows in the batch and alone: {compared} "
        f"(noise {singles.noise:.2g})",
        compared.greatest,
        allowed,
    )
