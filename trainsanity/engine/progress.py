"""What is being measured, in words, while a pipeline is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue
from trainsanity.types import Check

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def connected(pipeline: Pipeline, show: Callable[[str], None]) -> Callable[[Check], None]:
    """Have the pipeline show what it measures; return what has to be called with each check."""
    current = ""

    def on_check(check: Check) -> None:
        nonlocal current
        current = f"{check.code} {check.name} ({check.cost.name.lower()})"
        show(current)

    Session.of(pipeline).measurements.on_start = lambda name: show(
        f"{current}: {catalogue()[name].title}"
    )
    pipeline.progress = lambda done, of, what: show(f"{current}: {what}, {done:,} of {of:,}")
    return on_check
