"""``trainsanity explain``."""

from __future__ import annotations

import click

from trainsanity.cli.base import Command, words
from trainsanity.cli.list import found, lines
from trainsanity.engine.registry import registry
from trainsanity.errors import UsageError
from trainsanity.report.pages import page, reference


@click.command(cls=Command)
@click.argument("checks", metavar="[CHECK]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Write all pages as one Markdown document.")
@click.option("--pages", is_flag=True, help="Print the pages, too, where several checks are meant.")
def explain(checks: tuple[str, ...], every: bool, pages: bool, debug: bool) -> None:
    """Print a check's page: what, why, how, a failure, its fix.

    CHECK is a code or a name, as in 'trainsanity explain TS502'.  For a stage, the beginning of a
    code, or a word that pages have, as in 'trainsanity explain lora', the checks are listed.
    """
    if every and checks:
        raise UsageError(f"--all means every check: leave {' '.join(checks)} out")
    if not (every or checks):
        raise UsageError("name a check, like TS502, or give --all; 'trainsanity list' shows them")
    if every:
        click.echo(reference(registry().all()))
        return
    given = words("CHECK", checks)
    chosen = found(given)
    codes = {check.code for check in chosen} | {check.name for check in chosen}
    if pages or all(word.upper() in codes or word in codes for word in given):
        click.echo("\n\n\n".join(page(check) for check in chosen))
        return
    rows = [{"code": one.code, "name": one.name, "title": one.title} for one in chosen]
    lines(rows, ("code", "name", "title"))
    click.echo(f"trainsanity explain {chosen[0].code} prints its page; --pages all of these")
