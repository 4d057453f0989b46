"""TS905 loop.epoch_covers_data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.epochs import Epochs
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    pass


CHANCE = 1e-6
"""Two shuffled orders of n rows are equal with a probability of 1 / n!; below this, that is not
chance (10 rows and more)."""


@check(
    "TS905",
    "loop.epoch_covers_data",
    cost=Cost.RUN,
    needs=("trainer",),
    rules_out="sampling",
)
def epoch_covers_data(epochs: Epochs) -> Iterator[Measured | Finding]:
    """Every row is seen once in an epoch, and in another order in the next.

    What it checks: the rows that two epochs of the Trainer's own data loader read, by their place
    in the dataset.

    Why it matters: drawn with replacement, an epoch leaves out 37 % of the rows (1/e) and repeats
    others.  Rows in the order of a file come sorted by source or class, and an order that is the
    same each time lets every batch meet the same neighbours.

    How it is measured: the loader that ``get_train_dataloader`` returns is read twice, with
    ``set_epoch`` in between as in training; the dataset notes which places it is asked for.  Each
    place must come exactly once; with ``dataloader_drop_last`` the rows of one unfilled batch may
    be missing.  Two equal orders are a failure where chance makes them less than once in a
    million, and an ascending first one likewise.

    How to fix: leave the sampler to the Trainer, or shuffle with a generator that goes on.

    Known false alarms: weighted sampling and curricula on purpose.  A sequential order that
    ``train_sampling_strategy`` asks for is told, and passes.

    References: ``Trainer._get_train_sampler``; huggingface/transformers#46628.
    """
    everything = range(epochs.rows)
    for number, read in enumerate(epochs.read, start=1):
        counts = Counter(read)
        repeated = [place for place in everything if counts[place] > 1]
        missing = [place for place in everything if not counts[place]]
        dropped = epochs.rows % epochs.batch if epochs.drops_last else 0
        if repeated or len(missing) > dropped:
            yield Finding(
                f"epoch {number} leaves out {len(missing):,} of {epochs.rows:,} rows and reads "
                f"{len(repeated):,} more than once",
                observed={"missing": len(missing), "repeated": len(repeated)},
                expected={"missing": dropped, "repeated": 0},
                where=f"{epochs.sampler}, row {[*missing, *repeated][0]}",
                cause="the sampler draws with replacement, or from a part of the rows",
                fix="leave the sampler to the Trainer, or draw without replacement",
            )
            break
    first, second = epochs.read
    judged = epochs.strategy != "sequential" and 1 / math.factorial(min(len(first), 20)) < CHANCE
    ascending = judged and first == sorted(first)
    if ascending or (judged and first == second):
        how = "in the order of the dataset" if ascending else "in the same order as the first"
        which = "first" if ascending else "second"
        yield Finding(
            f"the {which} epoch reads its {len(first):,} rows {how}",
            observed=first[:8] if ascending else second[:8],
            expected="another order each epoch",
            where=epochs.sampler,
            cause="the sampler does not shuffle"
            if ascending
            else "the sampler sets its generator back to the same seed for each epoch",
            fix="leave the sampler to the Trainer, or give it a generator and do not seed it again",
        )
    order = (
        "in another order the second time"
        if judged
        else f"{epochs.strategy}: the order is as asked for"
        if epochs.strategy == "sequential"
        else "too few to judge their order"
    )
    yield Measured(f"each of {epochs.rows:,} rows is read once an epoch, {order}", 0, 0)
