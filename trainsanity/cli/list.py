"""``trainsanity list``."""

from __future__ import annotations

from typing import Any

import click

from trainsanity.cli.base import Command, words
from trainsanity.cli.output import Output
from trainsanity.engine.registry import registry
from trainsanity.report.json import encode


@click.command("list", cls=Command)
@click.argument("checks", metavar="[CHECKS]...", nargs=-1)
@click.option("--json", "json_file", metavar="FILE", help="Write a list of objects instead.")
def list_(checks: tuple[str, ...], json_file: str | None, debug: bool) -> None:
    """Show checks: code, name, stage, cost, title.

    CHECKS are stages, names, codes or beginnings of codes, as in 'trainsanity list collator TS5';
    without any, all are shown.
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
        for check in (registry().select(words("CHECKS", checks)) if checks else registry().all())
    ]
    if json_file is not None:
        Output(json_file).json(encode(rows))
        return
    # One line per check whatever the width, so that grep finds whole lines.
    columns = ("code", "name", "stage", "cost")
    widths = {key: max(len(row[key]) for row in rows) for key in columns}
    for row in rows:
        click.echo("  ".join([*(row[key].ljust(widths[key]) for key in columns), row["title"]]))
