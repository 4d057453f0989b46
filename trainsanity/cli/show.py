"""``trainsanity show``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from trainsanity.cli.output import (
    Output,
    OutputFile,
    progress,
    refuse_one_file_for_two,
    stdout_is_stderr,
    write_text,
)
from trainsanity.cli.targets import TargetCommand, sources_for
from trainsanity.engine.session import Session
from trainsanity.engine.store import MeasurementError
from trainsanity.errors import UsageError, first_line
from trainsanity.report.conversation import render_conversations
from trainsanity.report.json import encode
from trainsanity.report.show import as_dict, render, render_bare, without_rows
from trainsanity.types import Blocked, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.batches.conversations import Conversations
    from trainsanity.measurements.batches.supervision import Supervision
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.factory import Source

VIEWS = ("conversations", "shown_pairs", "shown_answers")
"""Measurements that write rows as people read them; the first that a pipeline has is shown."""


@dataclass(frozen=True)
class _Shown:
    """What one pipeline shows: positions, or conversations, or both."""

    supervision: Supervision | None
    conversations: Conversations | None


@click.command(cls=TargetCommand)
@click.argument("targets", metavar="[TARGET]... [-- ARGUMENT...]", nargs=-1)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Rows that are shown, of those that training will see first.",
)
@click.option(
    "--row",
    "number",
    type=click.IntRange(min=0),
    metavar="K",
    help="Row K of train_dataset, counted from 0, as the collator makes it.",
)
@click.option(
    "--tokens",
    "by_token",
    is_flag=True,
    help="One line a token, with id, mask and label, also of a conversation.",
)
@click.option(
    "--html",
    "html_file",
    metavar="FILE",
    help="Write the rows as one self-contained page; needs trainsanity[html].",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Write the same as JSON (a list, if there are several pipelines); '-' is stdout, and the "
    "text goes to stderr.",
)
@click.option(
    "--no-rows",
    is_flag=True,
    help="Show counts in the place of tokens, labels and texts, here and in the JSON: those are "
    "rows of your data.",
)
def show(  # noqa: PLR0917 - one parameter per option
    targets: tuple[str, ...],
    rows: int,
    number: int | None,
    by_token: bool,
    html_file: str | None,
    json_file: str | None,
    no_rows: bool,
    debug: bool,
    arguments: tuple[str, ...],
) -> None:
    """Show what the loss supervises.

    TARGET is what 'trainsanity run' takes: pkg.module:factory, or a training script with its
    ARGUMENTs after --.  A language model's rows are shown as conversations, with roles, special
    tokens and the borders of packs; what the loss counts stands between marks, and in colour; pairs
    have the chosen side beside the rejected one.  Other rows are shown token by token, with mask
    and label.  A language model's labels are shown where they stand; its loss shifts them, so that
    the first is predicted by nothing.
    """
    sources = sources_for(targets, arguments)
    refuse_one_file_for_two({"--json": json_file, "--html": html_file})
    output = Output(json_file)
    if no_rows and html_file is not None:
        raise UsageError("--html: the page is made of rows, which --no-rows leaves out")
    page = None if html_file is None else _page_file(html_file)
    documents: list[dict[str, Any]] = []
    pages: list[tuple[str, Conversations, Sequence[int]]] = []
    for source in sources:
        shown = _shown(source, number)
        if documents:
            output.text.write("\n")
        talk = shown.conversations
        places = [*range(min(rows, len(talk.rows)))] if talk is not None else []
        if talk is None and page is not None:
            raise UsageError(f"{source.id} has no rows that could be written as conversations")
        document = as_dict(source.id, shown.supervision, rows, talk, places)
        if no_rows:
            document = without_rows(document)
            write_text(
                output.text,
                lambda width, color, source=source, document=document: render_bare(  # type: ignore[misc]
                    source.id, document, width=width
                ),
            )
            documents.append(document)
            continue
        if talk is not None and not (by_token and shown.supervision is not None):
            write_text(
                output.text,
                lambda width, color, source=source, talk=talk, places=places: (  # type: ignore[misc]
                    render_conversations(source.id, talk, rows=places, width=width, color=color)
                ),
            )
        else:
            write_text(
                output.text,
                lambda width, color, source=source, shown=shown: render(  # type: ignore[misc]
                    source.id, shown.supervision, rows=rows, width=width, color=color
                ),
            )
        if talk is not None:
            pages.append((source.id, talk, places))
        documents.append(document)
    if json_file is not None:
        output.json(encode(documents if len(documents) > 1 else documents[0]))
    if page is not None:
        from trainsanity.report.conversation_page import render as render_page

        page.write(render_page(pages))


def _page_file(name: str) -> OutputFile:
    from trainsanity.report import html

    html.require_extra()
    return OutputFile("--html", name)


def _shown(source: Source, number: int | None) -> _Shown:
    def measure(pipeline: Pipeline) -> _Shown:
        show_progress(f"the first batch of {source.id}")
        try:
            if number is not None:
                return _Shown(None, _of_row(pipeline, number))
            return _of_batch(pipeline)
        except (Skip, Blocked, MeasurementError) as error:
            raise UsageError(f"{source.id} has nothing to show: {error}") from error

    with stdout_is_stderr(), progress() as show_progress:
        show_progress(f"building {source.id}")
        return source.visit(measure)


def _of_batch(pipeline: Pipeline) -> _Shown:
    measurements = Session.of(pipeline).measurements
    talk = None
    for view in VIEWS:
        try:
            talk = measurements.get(view)
            break
        except (Skip, MeasurementError):
            continue
    try:
        return _Shown(measurements.get("supervision"), talk)
    except (Skip, Blocked, MeasurementError):
        if talk is None:
            raise
        return _Shown(None, talk)


def _of_row(pipeline: Pipeline, number: int) -> Conversations:
    """Return one row of the dataset, collated with copies of itself.

    Raises:
        UsageError: there is no such row.
    """
    from trainsanity.fields import is_indexable
    from trainsanity.isolation.snapshot import preserved

    data = pipeline.train_dataset
    if not is_indexable(data):
        raise UsageError("--row: train_dataset is a stream, whose rows have no numbers")
    if number >= len(data):
        raise UsageError(f"--row {number}: train_dataset has {len(data)} rows, from 0 on")
    size = pipeline.args.train_batch_size * pipeline.args.gradient_accumulation_steps
    copies = [number] * max(size, 1)
    if hasattr(data, "select"):
        some = data.select(copies)
    else:
        from torch.utils.data import Subset

        some = Subset(data, copies)
    with preserved(pipeline):
        try:
            one = replace(pipeline, train_dataset=some)
            if one.trainer is not None:
                one.trainer.train_dataset = some
            talk = _of_batch(one).conversations
        except UsageError as error:
            raise UsageError(f"--row {number}: {first_line(error)}") from error
    if talk is None:
        raise UsageError("--row: the rows cannot be written as conversations")
    rows = [replace(talk.rows[0], number=number)]
    return replace(talk, rows=rows, shares={}, in_training_order=False)
