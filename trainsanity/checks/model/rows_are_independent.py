"""TS421 model.rows_are_independent."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.companions import Companions
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS421",
    "model.rows_are_independent",
    cost=Cost.FORWARD,
    needs=("trainer",),
    requires=("model.logits_finite", "model.eval_is_repeatable"),
    rules_out="neighbouring rows",
)
def rows_are_independent(companions: Companions) -> Iterator[Measured | Finding]:
    """The output for a row does not depend on the rows beside it.

    What it checks: the model's first output for a few rows of the first micro-batch against its
    output for the same tensors with copies of that row beside it.

    Why it matters: a sum over the wrong dimension, a mask of the whole batch in a mean, statistics
    over rows: the loss goes down all the same, and the model answers differently for every batch
    that a row comes in. In production, where rows come alone, it is another model.

    How it is measured: in eval mode and float32 where that can be had, twice in one shape, so that
    the same kernels run: padding, width and number of rows stay, and only the neighbours are
    others. Allowed are four units in the last place of the dtype and the order of float32 sums, of
    the largest output; beyond that four times what roundings make of a model of so many layers, by
    what one unit in the last place of its weights makes. The bound is not lifted by any measured
    noise, since a fault of this kind is noise, too.

    How to fix: reduce over positions, not over rows: (hidden * mask[..., None]).sum(1) /
    mask.sum(1, keepdim=True), and not mask.sum().

    Known false alarms: a model whose output is meant to hold pairs of rows. Square outputs, as
    contrastive models return, are left out.

    References: huggingface/transformers#24265; read: mean pooling of sentence-transformers.
    """
    allowed = companions.allowed
    # A NaN is the greatest, wherever it stands.
    row, worst = companions.most_moved
    if not within(worst, allowed):
        yield Finding(
            f"row {row} of the first batch has another output with other rows beside it: greatest "
            f"difference {worst:.3g}, up to {allowed:.2g} allowed",
            observed=worst,
            expected=allowed,
            where=f"row {row} of the first micro-batch",
            cause="the model mixes rows: a sum or mean over the whole batch where each row was "
            "meant",
            fix="reduce over positions only: mask.sum(1, keepdim=True), not mask.sum()",
        )
    yield Measured(
        f"{len(companions.beside_copies)} rows beside copies of themselves: greatest difference "
        f"{worst:.2g}, up to {allowed:.2g} allowed{companions.precision}",
        worst,
        allowed,
    )
