"""TS004 speed.loader_keeps_up."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.speed._alternatives import listed, numbers, quicker
from trainsanity.engine.registry import check
from trainsanity.measurements.speed.loader import Loading
from trainsanity.types import Cost, Finding, Measured


@check("TS004", "speed.loader_keeps_up", cost=Cost.RUN, rules_out="slow loading of rows")
def loader_keeps_up(loading: Loading) -> Iterator[Measured | Finding]:
    """Steps do not wait for rows that workers could have ready.

    What it checks: how long each step waits for its batches, and what workers take from that.

    Why it matters: a collator that tokenizes, decodes or augments stands still while the device
    computes, and the device while it collates.  Two workers do it beside each other.

    How it is measured: the wait is timed around the loader's ``next``.  Where it is above 5 % of a
    step, which is all that could be gained, the user's Trainer takes steps with workers, as many as
    there are processors and no more than four, or twice as many as it has.  Steps that live from
    what the workers had ready are not counted.  The noise is four standard errors, or how much the
    steps without workers differ before and after.

    How to fix: ``dataloader_num_workers``, with ``dataloader_persistent_workers=True`` where epochs
    are short; and what a collator does anew for each batch can be done once, with ``map``.

    Known false alarms: none known; a stream is read whole by each worker and is not tried.

    References: torch.utils.data, on multi-process data loading; NVIDIA-NeMo/Speech#1204.
    """
    found = [loading.alternative] if loading.alternative is not None else []
    yield from quicker(
        found,
        f"steps wait {loading.share:.0%} of their time for rows: with {{name}} in place of {{now}} "
        "a step takes {ratio} as long",
        f"rows are read and collated between the steps; the collator alone takes "
        f"{loading.collator:.0%} of a step" if not loading.workers else
        "the workers are too few for what each row takes",
        {"loader": f"dataloader_num_workers={found[0].name.split()[0] if found else ''}"},
    )  # fmt: skip
    tried = listed(found) or loading.untried
    yield Measured(
        f"a step waits {loading.seconds:.3g} s for its rows, {loading.share:.1%} of its time, with "
        f"{loading.workers} workers{'; ' if tried else ''}{tried}",
        {
            "wait_share": round(loading.share, 4),
            "wait_seconds": round(loading.seconds, 6),
            "collator_share": round(loading.collator, 4),
            "workers": loading.workers,
            "alternatives": numbers(found),
        },
    )
