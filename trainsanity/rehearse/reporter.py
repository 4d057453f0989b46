"""A rehearsal's outcome as text and as JSON values."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from trainsanity import __version__
from trainsanity.rehearse.outcome import Outcome
from trainsanity.report.console import console, fields, text_of
from trainsanity.report.words import clean, pairs

SCHEMA = 1
"""Rises when a key changes its meaning or goes; new keys may come without that."""

SHOWN = ("precision", "attention", "memory", "loader", "threads")
"""Settings that change time and memory; the JSON has the others, too."""


def render(outcome: Outcome, *, width: int = 100, color: bool = False) -> str:
    """Return the outcome as text, the verdict first."""
    out = console(width, color=color)
    title = Text(f"{clean(outcome.id)}: ", style="bold")
    title.append(clean(outcome.verdict), "green" if outcome.exit_code == 0 else "red")
    out.print(title, soft_wrap=True)
    out.print()
    fields(out, [(line.of, clean(line.text)) for line in outcome.lines])
    fields(out, [("not known", clean(sentence)) for sentence in outcome.unknown])
    settings = outcome.environment.get("settings", {})
    device = str(outcome.environment.get("device", ""))
    shown = [(name, pairs(settings[name])) for name in SHOWN if name in settings]
    fields(out, [("device", clean(device)), *shown])
    return text_of(out)


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON values."""
    return {
        "schema": SCHEMA,
        "trainsanity": __version__,
        "pipeline": outcome.id,
        "verdict": outcome.verdict,
        "exit_code": int(outcome.exit_code),
        "environment": outcome.environment,
        "lines": [vars(line) for line in outcome.lines],
        "spread": outcome.spread,
        **outcome.values,
    }
