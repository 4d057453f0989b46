"""``trainsanity explain``."""

from __future__ import annotations

import click

from trainsanity.cli.base import Command, words
from trainsanity.engine.registry import registry
from trainsanity.errors import UsageError
from trainsanity.report.pages import page, reference


@click.command(cls=Command)
@click.argument("checks", metavar="[CHECK]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Write all pages as one Markdown document.")
def explain(checks: tuple[str, ...], every: bool, debug: bool) -> None:
    """Print a check's page: what, why, how, a failure, its fix.

    CHECK is a code, a name, or a stage for all of its checks, as in 'trainsanity explain TS502'.
    """
    if every and checks:
        raise UsageError(f"--all means every check: leave {' '.join(checks)} out")
    if not (every or checks):
        raise UsageError("name a check, like TS502, or give --all; 'trainsanity list' shows them")
    if every:
        click.echo(reference(registry().all()))
        return
    pages = [page(check) for check in registry().select(words("CHECK", checks))]
    click.echo("\n\n\n".join(pages))
