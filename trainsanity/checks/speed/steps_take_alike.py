"""TS003 speed.steps_take_alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.repetitions import WORTH, trend
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.speed.figures import Clocked
from trainsanity.types import Cost, Finding, Measured, Severity


@check("TS003", "speed.steps_take_alike", cost=Cost.RUN, rules_out="steps that get slower")
def steps_take_alike(clocked: Clocked) -> Iterator[Measured | Finding]:
    """Steps take no longer from one to the next.

    What it checks: whether the time of a micro-batch grows while the run goes on; and it tells
    where the time of a step goes.

    Why it matters: a list that grows with each step, or a cache that is searched from its
    beginning, makes a run of hours one of days, and the first steps do not show it.

    How it is measured: the user's Trainer takes steps with nothing in its way but a clock, the
    first one uncounted.  Every other micro-batch is timed as a whole; in the others the device is
    waited for between forward, backward and the rest, so that these can be told apart.  Kendall's
    test on their seconds has to exceed four standard deviations, with less than two of them for
    their widths, and the last quarter of them has to take 5 % longer than the first.  Operations
    are counted by ``torch.utils.flop_counter``; their share of the device's peak (MFU) is told
    where the peak is known, from NVIDIA's data sheets.

    How to fix: look for what is kept from one step to the next: outputs, losses that still hold
    their graph, rows.

    Known false alarms: a machine that gets slower while this is measured.

    References: mit-han-lab/gan-compression#47, where drawing the loss took longer each time.
    """
    times = [one.fetch + one.seconds for one in clocked.micros]
    rises = trend(times)
    wider = trend([one.positions for one in clocked.micros]) > STANDARD_ERRORS / 2
    quarter = max(len(times) // 4, 1)
    growth = statistics.fmean(times[-quarter:]) / statistics.fmean(times[:quarter])
    if rises > STANDARD_ERRORS and growth > 1 + WORTH and not wider:
        yield Finding(
            f"the last {quarter} of {len(times)} micro-batches take {growth:.2f} x the time of the "
            "first ones: it grows from one to the next",
            observed=round(growth, 4),
            expected=1 + WORTH,
            factor=growth,
            cause="something is kept from one step to the next, and is gone through in each",
            fix="look for lists, caches and callbacks that hold what a step made",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"a step takes {clocked.seconds:.3g} ± {clocked.error:.1g} s: {parts(clocked)}; "
        f"{rates(clocked)}{operations(clocked)}",
        {
            "seconds": round(clocked.seconds, 6),
            "standard_error": round(clocked.error, 6),
            "steps": len(clocked.steps),
            "shares": {name: round(clocked.share(name), 4) for name in clocked.parts},
            "per_second": {name: round(rate, 2) for name, rate in clocked.rates.items()},
            "operations": clocked.operations and clocked.operations.count,
            "peak_bytes": clocked.peak_bytes,
            "mfu": utilisation(clocked),
            "growth": round(growth, 4),
            "trend": round(rises, 2),
            "not_measured": clocked.untried,
        },
        {"trend_at_most": STANDARD_ERRORS, "growth_at_most": 1 + WORTH},
    )


def parts(clocked: Clocked) -> str:
    """Return the parts of a step by their shares, the largest first."""
    shares = {name: clocked.share(name) for name in clocked.parts}
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {share:.1%}" for name, share in ordered if share >= 0.0005)


def rates(clocked: Clocked) -> str:
    """Return rows and tokens a second."""
    words = {"rows": "rows", "tokens": "tokens", "attended_tokens": "of them attended"}
    return ", ".join(f"{rate:,.4g} {words[n]}" for n, rate in clocked.rates.items()) + " a second"


def operations(clocked: Clocked) -> str:
    """Return the operations of a micro-batch, to follow the rates."""
    found = clocked.operations
    if found is None:
        return ""
    if found.count is None:
        return f"; {found.words}"
    share = utilisation(clocked)
    of_peak = f", {share:.1%} of the device's peak" if share is not None else f"; {found.words}"
    return f"; {found.count:.3g} operations a micro-batch{of_peak}"


def utilisation(clocked: Clocked) -> float | None:
    """Return the share of the device's peak, over whole steps."""
    if clocked.operations is None or not clocked.micros:
        return None
    seconds = sum(clocked.steps) / len(clocked.micros)
    share = clocked.operations.utilisation(seconds)
    return None if share is None else round(share, 4)
