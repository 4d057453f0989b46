"""The command line: the group of commands, each loaded when it is called.

Whatever goes wrong ends in one sentence on stderr and an exit code (see ``trainsanity --help``).
``list``, ``explain``, ``diagnose`` and ``--help`` load neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import os
import signal
import sys
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import click

from trainsanity import __version__
from trainsanity.cli.base import TYPING_ERROR, Terminated
from trainsanity.errors import EXIT_CODES, ExitCode
from trainsanity.report.words import clean

_COMMANDS = {
    "run": "run",
    "list": "list_",
    "explain": "explain",
    "diagnose": "diagnose",
    "show": "show",
    "rehearse": "rehearse",
}
"""Module beside this one, which is the command's name, and the function there; in the order in
which ``--help`` shows them."""


LONGEST = 900
"""Characters of a sentence; somebody else's error may be a megabyte long."""


class _Program(click.Group):
    """The group of commands; prints errors in one sentence instead of click's usage block."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if find_spec(f"{__package__}.{name}")]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f".{cmd_name}", __package__)
        command: click.Command = getattr(module, _COMMANDS[cmd_name])
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; what names a pipeline, or is nearly a command, is answered with it."""
        word = args[0]
        if word not in self.list_commands(ctx) and word[:1] != "-":
            close = difflib.get_close_matches(word, self.list_commands(ctx), 1, TYPING_ERROR)
            # "check train.py": Python's own names for it are no commands.
            given = args[1:] if word in ("check", "judge") and args[1:] else args
            call = " ".join(given)
            if given[0].endswith(".py") or ":" in given[0]:
                close = [f"trainsanity run {call if len(call) <= LONGEST else given[0]}"]
            hint = f"did you mean {close[0]}?" if close else "trainsanity --help shows them"
            raise click.UsageError(f"There is no command {word!r}; {hint}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = ExitCode.USAGE
        except click.ClickException as error:
            click.echo(f"trainsanity: error: {_sentence(error.format_message())}", err=True)
            code = error.exit_code
        except click.Abort as abort:
            terminated = isinstance(abort.__cause__, Terminated)
            how, code = (
                ("terminated", ExitCode.TERMINATED)
                if terminated
                else ("interrupted", ExitCode.INTERRUPTED)
            )
            click.echo(f"trainsanity: {how}; no JSON was written", err=True)
        sys.exit(code)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Exit codes: {'; '.join(f'{code} {text}' for code, text in EXIT_CODES.items())}.",
)
@click.version_option(__version__, prog_name="trainsanity")
def program() -> None:
    """Is this fine-tuning run sane?  Judged before the first GPU hour."""


def _sentence(text: str) -> str:
    """Return one readable line, whatever the message was made of."""
    line = clean(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."


def _flush_stdout() -> None:
    """Flush stdout now: a write error at interpreter exit would replace our exit code with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, ValueError):
        return  # None, or closed


def _end_when_terminated() -> None:
    """Let SIGTERM unwind as Ctrl-C does, so that no folder and no process of ours is left.

    One of several processes may wait in a collective, where no signal is handled: torchrun ends it.
    """
    if "RANK" in os.environ or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    own = os.getpid()

    def end(number: int, _: Any) -> None:
        if os.getpid() == own:
            raise Terminated
        # A worker that the user's code forked ends as it would without this handler.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)


PATIENCE = 2.0
"""Seconds that threads of the pipeline's code may take to end by themselves."""


def _end_threads(code: Any) -> None:
    """End the process where threads go on for ever: a heartbeat, a prefetcher.

    The interpreter would wait for them when everything has been said.
    """
    others = [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]
    until = time.monotonic() + PATIENCE
    for thread in others:
        thread.join(max(0.0, until - time.monotonic()))
    left = [thread.name for thread in others if thread.is_alive()]
    if not left:
        return
    with contextlib.suppress(OSError, ValueError):
        click.echo(f"trainsanity: still running, and ended: {clean(', '.join(left))}", err=True)
    _flush_stdout()
    os._exit(code if isinstance(code, int) else ExitCode.INCOMPLETE)


def _first_line(words: list[str]) -> str:
    """Return what ``trainsanity run`` begins with, before anything else is imported."""
    own, dashes, rest = words, "--", []
    if dashes in words:
        own, rest = words[: words.index(dashes)], words[words.index(dashes) + 1 :]
    # Before the words are parsed an option's value cannot be told from a target without these.
    targets = [word for word in own if word.endswith(".py") or (":" in word and word[0] != "-")]
    if not targets and rest and not rest[0].startswith("-"):
        targets = [" ".join(rest)]
    what = ", ".join(targets) or "the pipelines of pyproject.toml"
    return f"trainsanity: judging {clean(what)} in place of training"


def _say_first(words: list[str]) -> None:
    """Write the first line if somebody sees it: on a terminal, or asked for by ``--progress``."""
    own = words[: words.index("--")] if "--" in words else words
    if own[:1] != ["run"] or sys.stderr is None or {"--help", "-h", "--no-progress"} & {*own}:
        return
    if "--progress" in own or sys.stderr.isatty():
        with contextlib.suppress(OSError, ValueError):
            click.echo(f"{_first_line(own[1:] + words[len(own) :])}", err=True)


def main() -> None:
    """Run the console script."""
    _end_when_terminated()
    _say_first(sys.argv[1:])
    try:
        program(prog_name="trainsanity")
    except SystemExit as ended:
        _end_threads(ended.code)
        raise
    finally:
        _flush_stdout()
        # The process ends here.  Without this the interpreter searches everything that torch and
        # transformers have made for cycles before it does, for longer than a second.
        gc.freeze()
