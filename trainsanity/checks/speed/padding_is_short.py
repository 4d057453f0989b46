"""TS005 speed.padding_is_short."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.speed._alternatives import listed, numbers, of_kinds, quicker
from trainsanity.engine.registry import check
from trainsanity.measurements.speed.figures import Clocked
from trainsanity.types import Cost, Finding, Measured


@check("TS005", "speed.padding_is_short", cost=Cost.RUN, rules_out="padding that is computed")
def padding_is_short(clocked: Clocked) -> Iterator[Measured | Finding]:
    """Batches are no wider than their longest row needs.

    What it checks: what a step would take if the columns that are padding in every row were not
    computed.

    Why it matters: time goes with positions.  Rows that were padded to a fixed length when they
    were tokenized, or by the collator, are paid for in every step.

    How it is measured: the last micro-batch of the timed steps, as it is and cut to its longest
    row, rounded up to 8: forward and backward in turns, own, other, own.  The noise is the larger
    of four standard errors of the median ratio and what the run's own way differs from itself.

    How to fix: ``padding=True`` in the collator in place of ``padding="max_length"``, no padding
    when the rows are tokenized, and a ``pad_to_multiple_of`` of 8.

    Known false alarms: fixed shapes for a compiler, or for CUDA graphs, pay in another coin.

    References: huggingface/transformers#4842, 4.7 times the speed without padding to 512; the
    table of TS304 has the waste of an epoch, by multiple and by the order of rows.
    """
    found = of_kinds(clocked.alternatives, "padding")
    yield from quicker(
        found,
        "batches have {now} where {name} hold all of their tokens: without the others a step takes "
        "{ratio} as long",
        "rows are padded to a fixed length, or to a multiple far beyond their own",
        {"padding": "DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8), and no padding when "
         "rows are tokenized"},
    )  # fmt: skip
    yield Measured(
        listed(found)
        or "columns of the timed micro-batch that are padding throughout: 0, as far as its mask "
        "shows",
        numbers(found),
    )
