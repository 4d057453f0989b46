"""``trainsanity diagnose``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from trainsanity.cli.base import Command
from trainsanity.cli.output import Output, progress, write_text
from trainsanity.errors import ExitCode, UsageError
from trainsanity.report.json import dumps

_MOST = 10**9

_F = TypeVar("_F", bound=Callable[..., Any])


class _Option(click.Option):
    """An option whose help does not tell the range: nobody comes near its bounds."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what stands behind the help, without the range."""
        return {key: value for key, value in super().get_help_extra(ctx).items() if key != "range"}


class _Rate(click.FloatRange):
    """A number from 0; nan, which no comparison refuses, is none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


_COUNT = click.IntRange(min=1, max=_MOST)
_RATE = _Rate(min=0, max=_MOST)


def _known(name: str, type_: click.ParamType[Any], help_: str) -> Callable[[_F], _F]:
    metavar = "N" if type_ is _COUNT else "X"
    return click.option(name, cls=_Option, type=type_, metavar=metavar, help=help_)


@click.command(
    cls=Command,
    epilog=f"Exit codes: {ExitCode.OK} nothing found, or warnings only; {ExitCode.FAILED} "
    f"something found; {ExitCode.USAGE} the call or the log was wrong; {ExitCode.INCOMPLETE} the "
    "log holds nothing that could be judged.",
)
@click.argument("log")
@_known("--num-labels", _COUNT, "Classes of the head.")
@_known("--hidden-size", _COUNT, "Width of the model, for the head's first loss.")
@_known("--per-device-train-batch-size", _COUNT, "Rows of a micro-batch.")
@_known("--gradient-accumulation-steps", _COUNT, "Micro-batches of a step.")
@_known("--world-size", _COUNT, "Processes.")
@_known("--learning-rate", _RATE, "Its peak.")
@_known("--warmup-steps", _RATE, "Steps, or below 1 a share of all steps.")
@_known("--max-steps", _COUNT, "Optimizer steps of the run.")
@_known("--max-grad-norm", _RATE, "[default: the Trainer's, 1.0]")
@click.option("--lr-scheduler-type", metavar="NAME", help="[default: the Trainer's, linear]")
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the JSON report; '-' is stdout, and the "
    "text goes to stderr.",
)  # fmt: skip
def diagnose(log: str, json_file: str | None, debug: bool, **known: Any) -> int:
    """Say what a training LOG shows, and what it cannot show.

    LOG is a trainer_state.json, a folder of checkpoints, what Trainer prints, JSON lines, CSV, a
    table pasted from somewhere, or TensorBoard's event files; '-' is stdin.  What you know of the
    run goes into the options: each lets one more question be judged.
    """
    from trainsanity.diagnose.case import Case, Known
    from trainsanity.diagnose.questions import ask
    from trainsanity.diagnose.reading import read
    from trainsanity.diagnose.reporter import render

    output = Output(json_file)
    if json_file not in (None, "-") and _same(log, str(json_file)):
        raise UsageError(f"--json {json_file}: that is the log itself, give another file")
    with progress() as show_progress:
        show_progress(f"reading {log}")
        report = ask(Case(read(log), Known(**known)))
    write_text(output.text, lambda width, color: render(report, width=width, color=color))
    if json_file is not None:
        output.json(dumps([report]))
    return report.exit_code()


def _same(log: str, other: str) -> bool:
    """Return whether two names are of one file."""
    try:
        return os.path.samefile(log, other)
    except (OSError, ValueError):
        return False
