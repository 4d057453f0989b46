"""The base of the commands that take pipelines: a TARGET, and a script's arguments."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from trainsanity.cli.base import Command
from trainsanity.engine.registry import registry
from trainsanity.errors import UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.sources.building import BUILDING
from trainsanity.sources.command import Command as Launched
from trainsanity.sources.command import names_a_command
from trainsanity.sources.config import (
    checks_in,
    configuration,
    declared_in,
    failures_of,
    is_target,
    split,
)
from trainsanity.sources.factory import Source, sources_of


class TargetCommand(Command):
    """A command that keeps what follows ``--`` for the pipelines' code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words before ``--``; those after it become the parameter ``arguments``."""
        own, dashes, rest = args, "--", []
        if dashes in args:
            at = args.index(dashes)
            own, rest = args[:at], args[at + 1 :]
        targets = [word for word in own if is_target(word)]
        try:
            left = super().parse_args(ctx, list(own))  # click takes words out of the list
        except click.NoSuchOption as error:
            if error.option_name == "-m":
                words = own[own.index("-m") + 1 :][:1] if "-m" in own else []
                call = shlex.join(["python", "-m", *(words or ["MODULE"]), *rest])
                raise click.UsageError(
                    "a module that trains is judged as the command that runs it: "
                    f"trainsanity {ctx.info_name} -- {call}"
                ) from error
            if not targets:
                raise
            name, given = split(targets[0])
            whose = "script" if name.endswith(".py") else "function"
            raise click.UsageError(
                f"{error.format_message().rstrip('.')}; the {whose}'s own arguments go after --: "
                f"trainsanity {ctx.info_name} "
                f"{shlex.join([name, '--', *given, error.option_name])} ..."
            ) from error
        ctx.params["arguments"] = tuple(rest)
        return left


def sources_for(targets: Sequence[str], arguments: Sequence[str]) -> list[Source]:
    """Return the pipelines that are named; names are checked, nothing is built."""
    table = configuration()
    expected: dict[str, Any] = table.get("expected_failures", {})
    for name in checks_in(expected):
        try:
            in_full = registry().get(name).name
        except UsageError as error:
            raise UsageError(f"expected_failures in pyproject.toml: {error}") from error
        if name != in_full:
            raise UsageError(
                f"expected_failures in pyproject.toml: name the check in full, {in_full!r}, "
                f"not by {name!r}"
            )
    if not targets and names_a_command(arguments):
        words = tuple(arguments)
        return [Launched(words, failures_of(expected, shlex.join(words)), declared_in(table))]
    if not targets and arguments and arguments[0].endswith(".py") and Path(arguments[0]).is_file():
        targets, arguments = arguments[:1], arguments[1:]
    chosen = targets or table.get("pipelines", [])
    if not chosen:
        no_command = ""
        if arguments and not arguments[0].startswith("-"):
            no_command = f"; {arguments[0]!r} after -- is no command on the PATH"
        raise UsageError(
            "no pipeline to judge: give pkg.module:factory or a script, a command after --, or "
            f"name some under pipelines in [tool.trainsanity] of pyproject.toml{no_command}"
        )
    context = click.get_current_context(silent=True)
    given = context.params.get("timeout") if context is not None else None
    timeout = limits.checked(given, "--timeout") or table.get("timeout")
    building = None if timeout is None else timeout + BUILDING
    return sources_of(chosen, arguments, expected, declared_in(table), building)
