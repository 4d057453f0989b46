"""``trainsanity list``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from trainsanity.cli.base import Command, words
from trainsanity.cli.output import Output
from trainsanity.engine.registry import registry
from trainsanity.report.json import encode
from trainsanity.types import Check


@click.command("list", cls=Command)
@click.argument("checks", metavar="[CHECKS]...", nargs=-1)
@click.option("--json", "json_file", metavar="FILE", help="Write a list of objects instead.")
def list_(checks: tuple[str, ...], json_file: str | None, debug: bool) -> None:
    """Show checks: code, name, stage, cost, title.

    CHECKS are stages, names, codes or beginnings of codes, as in 'trainsanity list collator TS5',
    or words that their pages have, as in 'trainsanity list lora'; without any, all are shown.
    """
    rows: list[dict[str, Any]] = [
        {
            "code": check.code,
            "name": check.name,
            "stage": check.stage,
            "cost": check.cost.name,
            "judges": check.judges and str(check.judges),
            "title": check.title.replace("``", "`"),
        }
        for check in (found(words("CHECKS", checks)) if checks else registry().all())
    ]
    if json_file is not None:
        Output(json_file).json(encode(rows))
        return
    # One line per check whatever the width, so that grep finds whole lines.
    lines(rows, ("code", "name", "stage", "cost", "title"))


def found(given: Sequence[str]) -> list[Check]:
    """Return the checks that words name, or, for a word that names none, those that speak of it.

    Raises:
        UsageError: no check does.
    """
    names = [word for word in given if registry().names(word) or not registry().speaking_of(word)]
    named = registry().select(names) if names else []
    spoken = [one for word in given if word not in names for one in registry().speaking_of(word)]
    return [check for check in registry().all() if check in named or check in spoken]


def lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as aligned columns, of which the last one is not padded."""
    widths = {key: max(len(row[key]) for row in rows) for key in columns}
    for row in rows:
        click.echo("  ".join(row[key].ljust(widths[key]) for key in columns).rstrip())
