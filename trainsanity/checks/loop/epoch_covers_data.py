"""TS905 loop.epoch_covers_data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.runs.epochs import Epochs
from trainsanity.types import Cost, Finding, Measured

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
    """An epoch reads every row once, and each epoch has another order.

    What it checks: the rows that two epochs of the Trainer's own data loader read, by their place
    in the dataset.

    Why it matters: drawn with replacement, an epoch leaves out 37 % of the rows (1/e) and repeats
    others.  Rows in the order of a file are often sorted by source or class, and with the same
    order each time every batch has the same rows.

    How it is measured: the loader that ``get_train_dataloader`` returns is read twice, with
    ``set_epoch`` in between as in training; the dataset records the indices that it is asked for.
    Each must come exactly once, or each equally often, as prompts that are answered several times;
    with ``dataloader_drop_last`` the rows of one unfilled batch may be
    missing.  Two equal orders, or a first one that ascends, are a failure if chance makes them less
    than once in a million.

    How to fix: leave the sampler to the Trainer, or shuffle with a generator that is not seeded
    again for each epoch.

    Known false alarms: weighted sampling and curricula on purpose; name the check among the
    expected failures.  A sequential order that ``train_sampling_strategy`` asks for passes.

    References: ``Trainer._get_train_sampler``; huggingface/transformers#46628.
    """
    dropped = epochs.rows % epochs.batch if epochs.drops_last else 0
    left_out, repeats = [], []
    for read in epochs.read:
        counts = Counter(read)
        left_out.append([index for index in range(epochs.rows) if not counts[index]])
        # Prompts that are asked several times each, as those of a group are, all count alike.
        evenly = min(counts.values(), default=1)
        repeats.append([index for index in range(epochs.rows) if counts[index] > evenly])
        if evenly > 1:  # groups that do not fill a batch of generations are left out
            dropped = max(dropped, epochs.batch - 1)
    for number, (missing, repeated) in enumerate(zip(left_out, repeats, strict=True), start=1):
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
            else "the sampler draws the same order each time, perhaps from a fixed seed",
            fix="leave the sampler to the Trainer, or give it a generator and do not seed it again",
        )
    same = sum(one == other for one, other in zip(first, second, strict=False))
    in_order = sum(index == place for place, index in enumerate(first))
    yield Measured(
        f"two epochs of {epochs.rows:,} rows leave out {_both(left_out)} and repeat "
        f"{_both(repeats)}; the first has {in_order:,} rows at their place in the dataset, the "
        f"second {same:,} at their place in the first (sampling strategy: {epochs.strategy})",
        {"missing": [*map(len, left_out)], "repeated": [*map(len, repeats)]},
        {"missing": [dropped, dropped], "repeated": [0, 0]},
    )


def _both(epochs: list[list[int]]) -> str:
    """Return how many rows it is in each epoch."""
    return " and ".join(f"{len(rows):,}" for rows in epochs)
