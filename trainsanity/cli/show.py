"""``trainsanity show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trainsanity.cli.output import Output, progress, stdout_is_stderr, write_text
from trainsanity.cli.targets import TargetCommand, sources_for
from trainsanity.engine.session import Session
from trainsanity.engine.store import MeasurementError
from trainsanity.errors import UsageError
from trainsanity.report.json import encode
from trainsanity.report.show import as_dict, render
from trainsanity.types import Blocked, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.batches.supervision import Supervision
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.factory import Source


@click.command(cls=TargetCommand)
@click.argument("targets", metavar="[TARGET]... [-- ARGUMENT...]", nargs=-1)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Rows of the batch that are shown.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the same as JSON (a list, if there are several pipelines); '-' is stdout, and the "
    "text goes to stderr.",
)
def show(
    targets: tuple[str, ...],
    rows: int,
    json_file: str | None,
    debug: bool,
    arguments: tuple[str, ...],
) -> None:
    """Show what the loss supervises: the tokens of the first batch with mask and label.

    TARGET is what 'trainsanity run' takes: pkg.module:factory, or a training script with its
    ARGUMENTs after --.  The batch is the first that training will see.  A language model's labels
    are shown where they stand; its loss shifts them, so that the first is predicted by nothing.
    """
    sources = sources_for(targets, arguments)
    output = Output(json_file)
    documents: list[dict[str, Any]] = []
    for source in sources:
        supervision = _supervision(source)
        if documents:
            output.text.write("\n")
        write_text(
            output.text,
            lambda width, color, source=source, shown=supervision: render(  # type: ignore[misc]
                source.id, shown, rows=rows, width=width, color=color
            ),
        )
        documents.append(as_dict(source.id, supervision, rows))
    if json_file is not None:
        output.json(encode(documents if len(documents) > 1 else documents[0]))


def _supervision(source: Source) -> Supervision:
    def measure(pipeline: Pipeline) -> Supervision:
        show_progress(f"the first batch of {source.id}")
        try:
            found: Supervision = Session.of(pipeline).measurements.get("supervision")
        except (Skip, Blocked, MeasurementError) as error:
            raise UsageError(f"{source.id} has nothing to show: {error}") from error
        return found

    with stdout_is_stderr(), progress() as show_progress:
        show_progress(f"building {source.id}")
        return source.visit(measure)
