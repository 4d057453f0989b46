"""``trainsanity list``."""

from __future__ import annotations

from typing import Any

import click

from trainsanity.cli.base import Command
from trainsanity.cli.output import Output
from trainsanity.engine.registry import registry
from trainsanity.report.json import encode


@click.command("list", cls=Command)
@click.option("--json", "json_file", metavar="FILE", help="Write a list of objects instead.")
def list_(json_file: str | None, debug: bool) -> None:
    """Show all checks: code, name, stage, cost, title."""
    rows: list[dict[str, Any]] = [
        {
            "code": check.code,
            "name": check.name,
            "stage": check.stage,
            "cost": check.cost.name,
            "judges": check.judges and str(check.judges),
            "title": check.title.replace("``", "`"),
        }
        for check in registry().all()
    ]
    if json_file is not None:
        Output(json_file).json(encode(rows))
        return
    # One line per check whatever the width, so that grep finds whole lines.
    columns = ("code", "name", "stage", "cost")
    widths = {key: max(len(row[key]) for row in rows) for key in columns}
    for row in rows:
        click.echo("  ".join([*(row[key].ljust(widths[key]) for key in columns), row["title"]]))
