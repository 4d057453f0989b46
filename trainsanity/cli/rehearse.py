"""``trainsanity rehearse``."""

from __future__ import annotations

import click

from trainsanity.cli.output import Output, progress, stdout_is_stderr, write_text
from trainsanity.cli.targets import TargetCommand, sources_for
from trainsanity.errors import ExitCode
from trainsanity.isolation.collectives import rank
from trainsanity.rehearse.outcome import Outcome
from trainsanity.rehearse.outcome import rehearse as rehearsed
from trainsanity.rehearse.reporter import as_dict, render
from trainsanity.report.json import encode
from trainsanity.sources.factory import Source


@click.command(cls=TargetCommand)
@click.argument("targets", metavar="[TARGET]... [-- ARGUMENT...]", nargs=-1)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the outcome as JSON (a list, if there are several pipelines); '-' is stdout, and "
    "the text goes to stderr.",
)
def rehearse(
    targets: tuple[str, ...], json_file: str | None, debug: bool, arguments: tuple[str, ...]
) -> int:
    """Say whether a run will end, when, and in how much memory.

    TARGET is what 'trainsanity run' takes: pkg.module:factory, or a training script with its
    ARGUMENTs after --.  The real step is taken on the longest batch that the run's sampler and
    collator can form, twice; where that runs out of memory, shorter ones are tried, and the batch
    that does it is named.  A checkpoint is written to a temporary folder, the evaluation's longest
    batch is tried, usual steps are timed, and everything is put back.

    Exit codes: 0 the run fits; 1 it would end early; 3 the longest batch is not known.
    """
    sources = sources_for(targets, arguments)
    output = Output(json_file)
    outcomes: list[Outcome] = []
    for source in sources:
        outcomes.append(_outcome(source))
        if rank():
            continue
        if len(outcomes) > 1:
            output.text.write("\n")
        last = outcomes[-1]
        write_text(output.text, lambda width, color, last=last: render(  # type: ignore[misc]
            last, width=width, color=color))  # fmt: skip
    if json_file is not None and not rank():
        documents = [as_dict(outcome) for outcome in outcomes]
        output.json(encode(documents if len(documents) > 1 else documents[0]))
    return ExitCode.worst(outcome.exit_code for outcome in outcomes)


def _outcome(source: Source) -> Outcome:
    with stdout_is_stderr(), progress() as show:
        show(f"building {source.id}")
        return source.visit(
            lambda pipeline: rehearsed(pipeline, lambda what: show(f"{source.id}: {what}"))
        )
