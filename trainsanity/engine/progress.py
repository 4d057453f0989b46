"""What is being measured, in words, while a pipeline is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue
from trainsanity.types import Check

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


LONG = 10.0
"""Seconds that are left from which on they are shown: less is over before one has read it."""


def connected(
    pipeline: Pipeline, show: Callable[[str], None], checks: Iterable[Check] = ()
) -> Callable[[Check], None]:
    """Have the pipeline show what it measures; return what has to be called with each check.

    Args:
        pipeline: what is judged.
        show: called with what is being measured, and how long the rest may take.
        checks: all that are asked, for that.
    """
    current = ""
    measurements = Session.of(pipeline).measurements
    wanted = {name for check in checks for name in check.inputs}

    def on_check(check: Check) -> None:
        nonlocal current
        current = f"{check.code} {check.name} ({check.cost.name.lower()})"
        show(current + about(measurements.seconds_left(wanted)))

    def on_start(name: str) -> None:
        left = about(measurements.seconds_left(wanted))
        show(f"{current}: {catalogue()[name].title}{left}")

    measurements.on_start = on_start
    pipeline.progress = lambda done, of, what: show(f"{current}: {what}, {done:,} of {of:,}")
    return on_check


def about(seconds: float | None) -> str:
    """Return an estimate in words, rounded as far as it may be off; empty where it is short."""
    if seconds is None or not seconds >= LONG:
        return ""
    if seconds < 90:
        return f"; about {round(seconds, -1):.0f} s more, an estimate"
    return f"; about {seconds / 60:.0f} min more, an estimate"
