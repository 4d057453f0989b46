"""The report in a notebook: a verdict, each failure with its cause and fix, the rest folded."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainsanity.report import screen
from trainsanity.report.words import clean, counted, headline, verdict, with_status
from trainsanity.types import Finding, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

SHOWN = 5
"""Results of each kind that are shown: a cell's output is scrolled from about twenty lines on."""

OFTEN = 0.2
"""Seconds between two changes of the line of progress: each is a message to the browser."""

_COLOURS = {
    Status.FAIL: "#d1242f",
    Status.ERROR: "#8250df",
    Status.XPASS: "#d1242f",
    Status.WARNING: "#9a6700",
}
"""Of the bars beside results; WCAG asks for a contrast of 3 of what is no text, and they have it
on white and on black."""

GOOD = "#1a7f37"


def html_of(report: Report) -> str:
    """Return the report as a piece of HTML, without a script and without a style sheet."""
    parts = [
        _bar(
            GOOD if report.good else _COLOURS[Status.FAIL],
            f"<strong>{_text(report.pipeline_id)}: {_text(verdict(report))}</strong>",
        )
    ]
    for status, color in _COLOURS.items():
        results = with_status(report.results, status)
        parts += [_bar(color, _result(result)) for result in results[:SHOWN]]
        if rest := results[SHOWN:]:
            parts.append(_bar(color, f"{counted(len(rest), 'more result')} below"))
    text = _text(screen.render(report))
    folded = f'<pre style="font-size:0.85em;overflow-x:auto">{text}</pre>'
    parts.append(f"<details><summary>the report on one screen</summary>{folded}</details>")
    return f'<div class="trainsanity">{"".join(parts)}</div>'


def _bar(color: str, inner: str) -> str:
    style = f"border-left:4px solid {color};padding:0 0 0 0.7em;margin:0.5em 0"
    return f'<div style="{style}">{inner}</div>'


def _text(text: str) -> str:
    return escape(clean(text))


def _result(result: Result) -> str:
    title = f"<div><code>{result.check.code}</code> {_text(result.check.name)}</div>"
    if not result.findings:
        return title + f"<div>{_text(result.reason)}</div>"
    return title + "".join(_finding(finding, result) for finding in result.findings[:2])


def _finding(finding: Finding, result: Result) -> str:
    lines = [f"<div>{_text(headline(finding, result))}</div>"]
    for label, text in (("cause", finding.cause), ("fix", finding.fix)):
        if text:
            lines.append(f"<div><em>{label}</em> {_text(text)}</div>")
    return "".join(lines)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being measured below a notebook's cell, and nowhere else.

    The line is gone at the end.
    """
    shell: Any = None
    if "IPython" in sys.modules:
        shell = import_module("IPython").get_ipython()
    if getattr(shell, "kernel", None) is None:  # a terminal, or no IPython
        yield lambda what: None
        return
    display = import_module("IPython.display").display
    handle: Any = display(_Line("trainsanity"), display_id=True)
    last = 0.0

    def show(what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= OFTEN:
            last = time.monotonic()
            handle.update(_Line(f"trainsanity: {what}"))

    try:
        yield show
    finally:
        handle.update(_Line(""))


class _Line:
    """A line that a notebook shows."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<small>{_text(self.text)}</small>" if self.text else ""
