"""The base of all commands: ``--debug``, errors in one sentence, exit codes."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from typing import Any

import click

from trainsanity.errors import BrokenOff, ExitCode, RankError, UsageError, text_of

TYPING_ERROR = 0.8
"""Likeness by difflib from which a word is taken for another one with a letter wrong or two."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived, as a scheduler sends it when the time is over."""


class Command(click.Command):
    """A command with ``--debug``, whose exceptions become sentences."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.")
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; an option that does not exist is answered with those it may mean."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            every = [name for param in self.params for name in param.opts if name[:2] == "--"]
            # What click finds alike is often not: --html for --lr.
            close = near(error.option_name, every)
            close = close or difflib.get_close_matches(error.option_name, every, 1, TYPING_ERROR)
            if close:
                raise click.UsageError(
                    f"{error.message.rstrip('.')}; did you mean {' or '.join(close)}?"
                ) from error
            raise click.NoSuchOption(error.option_name, error.message, ctx=ctx) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its return value is the exit code."""
        debug = ctx.params["debug"]
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except UsageError as error:
            _trace(debug)
            raise Wrong(str(error)) from error
        except (RankError, BrokenOff) as error:
            _trace(debug)
            raise Unexpected(str(error)) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            _trace(debug)
            # A factory that exits with 0 must not end us with the code of a sane pipeline.
            what = f"unexpected {type(error).__name__}: {text_of(error)}"
            raise unexpected(what, debug) from error


def near(option: str, options: Iterable[str]) -> list[str]:
    """Return the options that a word stands for: by initials, as ``--lr``, or by words of them."""
    word = option.lstrip("-").replace("_", "-").lower()
    names = {name: name.lstrip("-") for name in options}
    initials = [n for n, full in names.items() if word == "".join(w[0] for w in full.split("-"))]
    parts = [n for n, full in names.items() if len(word) > 2 and f"-{word}" in f"-{full}"]
    return [*initials, *parts]


class Wrong(click.ClickException):
    """The call or its input was wrong."""

    exit_code = ExitCode.USAGE


class Unexpected(click.ClickException):
    """Something unexpected was raised, here or in the pipeline's code."""

    exit_code = ExitCode.INCOMPLETE


def unexpected(what: str, debug: bool) -> Unexpected:
    """Return the exception that tells of an unexpected one."""
    return Unexpected(what if debug else f"{what}; run again with --debug for the traceback")


def _trace(debug: bool) -> None:
    if debug:
        click.echo(traceback.format_exc(), err=True, nl=False)


def words(option: str, values: Iterable[str]) -> list[str]:
    """Return the words of a repeatable option whose values are lists with commas.

    Raises:
        UsageError: there are values, and no word in them.
    """
    given = list(values)
    found = [word.strip() for value in given for word in value.split(",") if word.strip()]
    # An empty variable in a script must not turn "only these" into "all".
    if given and not found:
        raise UsageError(f"{option} names no check; 'trainsanity list' shows them all")
    return found
