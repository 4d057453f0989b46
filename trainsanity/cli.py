"""The command line: run, list, explain.

Whatever goes wrong ends in one sentence on stderr and an exit code (see ``trainsanity --help``).
``list``, ``explain`` and ``--help`` load neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.text import Text

from . import __version__
from .errors import UsageError
from .registry import registry
from .report.json import dumps, encode
from .report.text import render
from .runner import FAILED, INCOMPLETE, OK, Report
from .runner import run as run_checks
from .sources import Source, configuration, sources_of
from .types import Check, Cost

USAGE, INTERNAL, INTERRUPTED = 2, 3, 130
"""Exit codes of calls that came to no report; those of reports are in runner.py."""

PIPED_WIDTH, WIDEST = 100, 120
"""Columns of a report that goes to a file, and the most on a terminal: long lines tire the eye."""


class _Program(click.Group):
    """The group of commands; tells errors in one sentence instead of click's usage block."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = USAGE
        except click.ClickException as error:
            click.echo(f"trainsanity: error: {_sentence(error.format_message())}", err=True)
            code = error.exit_code
        except click.Abort:
            click.echo("trainsanity: interrupted; no JSON was written", err=True)
            code = INTERRUPTED
        sys.exit(code)


class _Command(click.Command):
    """A command with ``--debug``, whose exceptions become sentences."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error.")
        )

    def invoke(self, ctx: click.Context) -> Any:
        debug = ctx.params["debug"]
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except UsageError as error:
            _trace(debug)
            raise _Wrong(str(error)) from error
        except (Exception, SystemExit) as error:
            _trace(debug)
            # A factory that exits with 0 must not end us with the code of a sane pipeline.
            what = f"unexpected {type(error).__name__}: {error}"
            more = "" if debug else "; run again with --debug for the traceback"
            raise _Unexpected(what + more) from error


class _Run(_Command):
    """``run``, which keeps what follows ``--`` for the script."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, dashes, rest = args, "--", []
        if dashes in args:
            place = args.index(dashes)
            own, rest = args[:place], args[place + 1 :]
        scripts = [word for word in own if word.endswith(".py")]
        try:
            left = super().parse_args(ctx, own)
        except click.NoSuchOption as error:
            if not scripts:
                raise
            raise click.UsageError(
                f"{error.format_message().rstrip('.')}; the script's own arguments go after --: "
                f"trainsanity run {scripts[0]} -- {error.option_name} ..."
            ) from error
        ctx.params["arguments"] = tuple(rest)
        return left


class _Wrong(click.ClickException):
    """The call or its input was wrong."""

    exit_code = USAGE


class _Unexpected(click.ClickException):
    """Something that should not happen, here or in the pipeline's code."""

    exit_code = INTERNAL


def _trace(debug: bool) -> None:
    if debug:
        click.echo(traceback.format_exc(), err=True, nl=False)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 every check that ran passed or failed as accepted; 1 a check failed, "
    "or an accepted failure passed; 2 the call or its input was wrong; 3 incomplete: an error, "
    "nothing ran, or, with --strict, anything skipped, blocked or abstained; 130 interrupted.",
)
@click.version_option(__version__, prog_name="trainsanity")
def program() -> None:
    """Is this fine-tuning run sane?  Judged before the first GPU hour."""


@program.command(cls=_Run)
@click.argument("targets", metavar="[TARGET]... [-- ARGUMENT...]", nargs=-1)
@click.option("--select", multiple=True, metavar="CHECKS", help="Only these, e.g. collator,TS5.")
@click.option("--ignore", multiple=True, metavar="CHECKS", help="Not these.")
@click.option(
    "--max-cost",
    type=click.Choice(Cost, case_sensitive=False),
    help="Only checks that cost this much or less.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 if anything asked for has no verdict.")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the JSON report (a list, if there are several pipelines); '-' is stdout, and the "
    "text goes to stderr.",
)
def run(  # noqa: PLR0917 - one parameter per option
    targets: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    max_cost: Cost | None,
    strict: bool,
    json_file: str | None,
    debug: bool,
    arguments: tuple[str, ...],
) -> int:
    """Judge pipelines.

    TARGET is pkg.module:factory, a function that takes nothing and returns the Trainer that you
    would call train() on; modules are looked for in the current directory, too.  Or it is your
    training script, which runs with the ARGUMENTs after -- until it calls Trainer.train(); the
    checks take the place of that call, and the script ends there.  Without a TARGET, the pipelines
    of [tool.trainsanity] in pyproject.toml are judged; its expected_failures always apply.

    CHECKS are stages, names, codes or beginnings of codes, separated by commas; 'trainsanity list'
    shows them.
    """
    sources = _sources(targets, arguments)
    checks = registry().select(_words("--select", select), _words("--ignore", ignore), max_cost)
    if not checks:
        raise UsageError("--select, --ignore and --max-cost together leave no check to run")
    output = _Output(json_file)
    reports: list[Report] = []
    for source in sources:
        report = _judge(source, checks)
        if reports:
            output.text.write("\n")
        _write_text(report, output.text, strict=strict, debug=debug)
        reports.append(report)
    if json_file is not None:
        output.json(dumps(reports, strict=strict))
    return _worst(report.exit_code(strict=strict) for report in reports)


@program.command("list", cls=_Command)
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
        _Output(json_file).json(encode(rows))
        return
    # One line per check whatever the width, so that grep finds whole lines.
    widths = {key: max(len(row[key]) for row in rows) for key in rows[0]}
    for row in rows:
        cells = [row[key].ljust(widths[key]) for key in row if key != "title"]
        click.echo("  ".join([*cells, row["title"]]))


@program.command(cls=_Command)
@click.argument("checks", metavar="CHECK...", nargs=-1, required=True)
def explain(checks: tuple[str, ...], debug: bool) -> None:
    """Print the page of each CHECK: what it checks, why, how, and how to fix what it finds."""
    pages = [_page(check) for check in registry().select(_words("CHECK", checks))]
    click.echo("\n\n\n".join(pages))


def _page(check: Check) -> str:
    facts = [f"{check.code} {check.name}", f"stage {check.stage}", f"cost {check.cost.name}"]
    if check.requires:
        facts.append(f"after {', '.join(check.requires)}")
    if check.acquits:
        facts.append(f"a pass speaks for: {check.acquits}")
    return f"{' | '.join(facts)}\n\n{check.page}"


def _sources(targets: Sequence[str], arguments: Sequence[str]) -> list[Source]:
    """The pipelines to judge; names are checked, nothing is built."""
    table = configuration()
    expected: dict[str, str] = table.get("expected_failures", {})
    for name in expected:
        try:
            in_full = registry().get(name).name
        except UsageError as error:
            raise UsageError(f"expected_failures in pyproject.toml: {error}") from error
        if name != in_full:
            raise UsageError(
                f"expected_failures in pyproject.toml: name the check in full, {in_full!r}, "
                f"not by {name!r}"
            )
    chosen = targets or table.get("pipelines", [])
    if not chosen:
        raise UsageError(
            "no pipeline to judge: give pkg.module:factory or a script, or name some under "
            "pipelines in [tool.trainsanity] of pyproject.toml"
        )
    return sources_of(chosen, arguments, expected)


def _words(option: str, values: Iterable[str]) -> list[str]:
    """The words of a repeatable option whose values are lists with commas."""
    given = list(values)
    words = [word.strip() for value in given for word in value.split(",") if word.strip()]
    # An empty variable in a script must not turn "only these" into "all".
    if given and not words:
        raise UsageError(f"{option} names no check; 'trainsanity list' shows them all")
    return words


def _judge(source: Source, checks: list[Check]) -> Report:
    with _stdout_is_stderr(), _progress() as tell:
        tell(f"building {source.id}")
        return source.visit(
            lambda pipeline: run_checks(
                pipeline,
                checks,
                source.expected_failures,
                on_check=lambda c: tell(f"{c.code} {c.name} ({c.cost.name.lower()})"),
            )
        )


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Send what the user's code prints to stderr; stdout is for the report.

    The descriptor is moved as well as ``sys.stdout``, for C libraries, child processes, and
    loggers that hold on to the old object.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # one of the two is closed
            saved = os.dup(1)
            stack.callback(os.close, saved)
            _flush_stdout()
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
            stack.callback(_flush_stdout)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _flush_stdout() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            stream.flush()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line that says what is being looked at; rich shows it on a terminal only."""
    with Console(stderr=True).status("") as status:
        yield lambda what: status.update(Text(what))


def _write_text(report: Report, stream: TextIO, *, strict: bool, debug: bool) -> None:
    console = Console(file=stream)
    text = render(
        report,
        width=min(console.width, WIDEST) if console.is_terminal else PIPED_WIDTH,
        color=console.color_system is not None and not console.no_color,
        strict=strict,
        debug=debug,
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


class _Output:
    """Where the reports go.  A JSON file appears whole at the end, or not at all.

    Raises:
        UsageError: the JSON file cannot be written.  That is tried at once, since the
            measurements between here and the end may take minutes.
    """

    def __init__(self, json_file: str | None) -> None:
        self.text = sys.stderr if json_file == "-" else sys.stdout
        self._path: Path | None = None
        self._name = json_file
        if json_file in (None, "-"):
            return
        # The pipeline's code may change the directory before the end.
        self._path = Path(str(json_file)).resolve()
        if self._path.is_dir():
            raise UsageError(f"--json {json_file}: that is a directory, give a file")
        if self._direct:
            return
        with self._told():
            self._beside.touch(exist_ok=False)
            self._beside.unlink()

    @property
    def _direct(self) -> bool:
        """A pipe or a device is written to; putting a file in its place would remove it."""
        return self._path is not None and self._path.exists() and not self._path.is_file()

    @property
    def _beside(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"--json {self._name}: it cannot be written ({reason})") from error

    def json(self, text: str) -> None:
        """Write the JSON report."""
        if self._path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        with self._told():
            if self._direct:
                self._path.write_text(text, encoding="utf-8")
                return
            try:
                self._beside.write_text(text, encoding="utf-8")
                if self._path.exists():
                    shutil.copymode(self._path, self._beside)
                os.replace(self._beside, self._path)
            finally:
                self._beside.unlink(missing_ok=True)


def _worst(codes: Iterable[int]) -> int:
    """A failure weighs more than something unknown, and that more than success."""
    return max(codes, key=(OK, INCOMPLETE, FAILED).index)


def _sentence(text: str) -> str:
    """One line, whatever the message was made of."""
    return " ".join(text.split())


def main() -> None:
    """The console script."""
    program(prog_name="trainsanity")
