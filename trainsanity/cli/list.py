"""``trainsanity list``."""

from __future__ import annotations

import click

from trainsanity.cli.base import Command
from trainsanity.cli.output import Output
from trainsanity.engine.registry import registry
from trainsanity.report.json import encode


@click.command("list", cls=Command)
@click.option("--json", "json_file", metavar="FILE", help="Write a list of objects instead.")
def list_(json_file: str | None, debug: bool) -> None:
    """Show all checks: code, name, stage, cost, title."""
    rows = [
        {
            "code": check.code,
            "name": check.name,
            "stage": check.stage,
            "cost": check.cost.name,
            "title": check.title.replace("``", "`"),
        }
        for check in registry().all()
    ]
    if json_file is not None:
        Output(json_file).json(encode(rows))
        return
    # One line per check whatever the width, so that grep finds whole lines.
    widths = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    for row in rows:
        cells = [row[key].ljust(widths[key]) for key in row if key != "title"]
        click.echo("  ".join([*cells, row["title"]]))
