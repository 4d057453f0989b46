"""TS913 loop.eval_loss_is_a_mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import REDUCTIONS, UNEVEN, within
from trainsanity.measurements.runs.scored import EvaluatedBatch, Scored
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


ROUNDED = 1e-5
"""Rounding of a mean of float32 losses, relative to it; bfloat16 losses are exact in it."""


@check(
    "TS913",
    "loop.eval_loss_is_a_mean",
    cost=Cost.STEP,
    needs=("trainer", "eval_dataset"),
    requires=("loop.metric_prefers_the_right", "loss.finite"),
    rules_out="averaging of eval_loss",
)
def eval_loss_is_a_mean(pipeline: Pipeline, scored: Scored) -> Iterator[Measured | Finding]:
    """``eval_loss`` is the mean over the evaluated rows, or over their tokens.

    What it checks: ``eval_loss`` against the mean of the batches' losses, weighted by rows and
    weighted by the items that they count; and how unequal that makes the weights of tokens.

    Why it matters: a sum depends on how many rows there are.  A mean of batch means, with a smaller
    batch at the end, gives that one's rows more weight.  The Trainer itself weighs each batch by
    its rows, so that on token tasks a token of a short row weighs more than one of a long row, the
    number depends on the eval batch size, and it is not the loss per token that is trained.

    How it is measured: what ``compute_loss`` returns for each batch while the Trainer's own
    ``evaluate()`` runs on a few rows, the last batch of which is smaller.  An ``eval_loss`` that is
    none of the means is a failure; one over batches of unequal size is a warning, and so is the
    Trainer's own weighting where a token of one batch weighs three times as much as one of
    another (a last resort: measured on batches that are full).

    How to fix: weigh by what is counted::

        # bad
        eval_loss = sum(losses) / len(losses)
        # good
        eval_loss = sum(l * n for l, n in zip(losses, tokens)) / sum(tokens)

    or evaluate with larger batches, with rows of one length, or put rows of like length together.

    Known false alarms: an ``eval_loss`` that is another function than ``compute_loss``, by design.

    References: huggingface/transformers#39241; ``Trainer.evaluation_loop``.
    """
    batches = scored.batches
    if isinstance(pipeline.trainer.eval_dataset, Mapping):
        raise Skip("each of several evaluation datasets has a loss of its own")
    observed = scored.metrics.get("eval_loss")
    if observed is None or not batches:
        raise Skip("evaluate() returned no eval_loss, or made it without compute_loss")
    if not all(batch.rows for batch in batches) or not all(batch.items for batch in batches):
        raise Skip("a batch has no rows that a loss counts")
    observed = float(observed)
    losses = [batch.loss for batch in batches]
    if not all(map(math.isfinite, [observed, *losses])):
        raise Skip("a loss is no number")
    rows = _mean(losses, [batch.rows for batch in batches])
    items = _mean(losses, [batch.items for batch in batches])
    plain = _mean(losses, [1] * len(batches))
    allowed = (ROUNDED + REDUCTIONS) * max(map(abs, losses))
    if not any(within(abs(observed - one), allowed) for one in (rows, items, plain)):
        yield Finding(
            f"eval_loss is {observed:.4f}, and the mean of the {len(batches)} batches' losses is "
            f"{rows:.4f} over rows, {items:.4f} over items: it is averaged in another way",
            observed=observed,
            expected=rows,
            factor=observed / rows if rows else None,
            where="Trainer.evaluate",
            cause="evaluate() or evaluation_loop is overridden and sums, or leaves batches out",
            fix="return the mean over rows or tokens, or leave the average to the Trainer",
        )
    elif not within(abs(observed - rows), allowed) and not within(abs(observed - items), allowed):
        yield Finding(
            f"eval_loss is {observed:.4f}, a mean of means per batch; over the rows it is "
            f"{rows:.4f}: rows of a smaller batch weigh more",
            observed=observed,
            expected=rows,
            where="Trainer.evaluate",
            cause="the batches' means are averaged without their sizes as weights",
            fix="weight each batch's loss by its rows or tokens",
            severity=Severity.WARNING,
        )
    spread = _spread(batches)
    if spread > UNEVEN and not within(abs(observed - items), allowed):
        yield Finding(
            f"eval_loss is {observed:.4f}, weighted by rows per batch; per token it is "
            f"{items:.4f}: a token of one batch weighs {spread:.1f} times as much as one of "
            "another, so that the number depends on the eval batch size",
            observed=observed,
            expected=items,
            where="per_device_eval_batch_size",
            cause="the Trainer weighs a batch's mean over tokens by its rows",
            fix="evaluate with larger batches, or compute the loss per token in compute_metrics",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"eval_loss of {scored.rows} rows is {observed:.4f}; {len(batches)} batches have a mean of "
        f"{rows:.4f} over rows, {items:.4f} over what the loss counts",
        observed,
        rows,
    )


def _mean(losses: list[float], weights: list[int]) -> float:
    return sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights)


def _spread(batches: list[EvaluatedBatch]) -> float:
    """Return how much more an item weighs in one batch than in another, both full."""
    full = max(batch.rows for batch in batches)
    weights = [batch.rows / batch.items for batch in batches if batch.rows == full]
    return max(weights) / min(weights)
