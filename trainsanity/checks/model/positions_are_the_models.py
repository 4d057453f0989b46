"""TS420 model.positions_are_the_models."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.positions import Positions
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS420",
    "model.positions_are_the_models",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="positions",
)
def positions_are_the_models(positions: Positions) -> Iterator[Measured | Finding]:
    """Position ids of the batch give each document what the model's own would.

    What it checks: the model's output for one document with the ``position_ids`` of the batch, and
    without them, when the model counts by itself.

    Why it matters: positions are counted in other ways by other models. RoBERTa and what is built
    like it begin at ``padding_idx + 1``; given positions from 0, every token reads the embedding of
    another place than in pretraining, and nothing raises. At inference, where nobody passes
    positions, the model sees others than it was trained with.

    How it is measured: the longest run of attended tokens whose positions count up by one from the
    begin of a document, alone and without padding, in eval mode and float32 where that can be had.
    Allowed are four units in the last place of the dtype and the order of float32 sums, or four
    times what one unit in the last place of the weights makes. Rotary positions are relative: where
    they begin makes no difference beyond that.

    How to fix: leave ``position_ids`` out, or let the model count::

        # bad
        batch["position_ids"] = torch.arange(width).expand_as(batch["input_ids"])
        # good
        batch["position_ids"] = create_position_ids_from_input_ids(input_ids, padding_idx)

    Known false alarms: none known. What stands behind a jump of positions, as they are made to
    train for longer texts, is not asked.

    References: huggingface/sentence-transformers#3879, huggingface/transformers#10736.
    """
    if not within(positions.difference, positions.allowed):
        yield Finding(
            f"with the batch's position_ids, from {positions.first}, the output for "
            f"{positions.tokens} tokens is another than with the model's own: greatest difference "
            f"{positions.difference:.3g}, up to {positions.allowed:.2g} allowed",
            observed=positions.difference,
            expected=positions.allowed,
            where="position_ids of the first micro-batch",
            cause="this model counts its positions from another number",
            fix="leave position_ids out of the batch, or count as the model does",
        )
    yield Measured(
        f"a document of {positions.tokens} tokens with the batch's positions and with the model's "
        f"own: greatest difference {positions.difference:.2g}, up to {positions.allowed:.2g} "
        f"allowed{positions.precision}",
        positions.difference,
        positions.allowed,
    )
