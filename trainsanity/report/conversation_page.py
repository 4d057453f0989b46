"""Rows as conversations, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainsanity import __version__
from trainsanity.report.conversation import heading_of, share, visible
from trainsanity.report.words import clean

if TYPE_CHECKING:
    from trainsanity.measurements.batches.conversations import Conversations, Sequence_


def render(pages: Sequence[tuple[str, Conversations, Sequence[int]]]) -> str:
    """Return the page.

    Args:
        pages: of each pipeline its name, its rows, and places of those that are written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    views = [_view(name, shown, places) for name, shown, places in pages]
    return environment.get_template("conversation.html").render(pages=views, version=__version__)


def _view(name: str, shown: Conversations, places: Sequence[int]) -> dict[str, Any]:
    return {
        "name": clean(name),
        "rows": [
            {
                "heading": heading_of(shown.rows[k], shown),
                "pair": {s.title for s in shown.rows[k].sequences} == {"chosen", "rejected"},
                "sequences": [_sequence(one) for one in shown.rows[k].sequences],
            }
            for k in places
        ],
        "more": len(shown.rows) - len(places),
        "drawn": len(shown.rows),
        "shares": [
            {
                "role": role,
                "percent": round(100 * counted / max(tokens, 1)),
                "counted": f"{counted:,}",
                "tokens": f"{tokens:,}",
            }
            for role, (tokens, counted) in sorted(shown.shares.items())
        ],
    }


def _sequence(one: Sequence_) -> dict[str, Any]:
    return {
        "title": one.title,
        "share": share(one.counted, one.tokens),
        "parts": [
            {
                "role": part.role,
                "runs": [
                    {"text": visible(run), "counted": run.counted, "special": run.special}
                    for run in part.runs
                ],
            }
            for part in one.parts
        ],
    }
