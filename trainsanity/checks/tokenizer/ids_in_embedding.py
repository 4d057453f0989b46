"""TS105 tokenizer.ids_in_embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.tokenizer._collated_ids import Collated, collated_ids
from trainsanity.engine.registry import check
from trainsanity.measurements.data.scan import Scan
from trainsanity.pipeline import embedding_rows
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS105",
    "tokenizer.ids_in_embedding",
    needs=("train_dataset",),
    rules_out="config / tokenizer",
    stops=True,
)
def ids_in_embedding(pipeline: Pipeline, scan: Scan) -> Iterator[Measured | Finding]:
    """Token ids of all rows fit into the embedding.

    What it checks: the lowest and highest id of all rows, for training and evaluation, against the
    number of rows of the model's input embedding; of rows of texts, which the collator tokenizes,
    the ids of a micro-batch.

    Why it matters: one id outside stops the run when its batch comes, hours in, with an index
    error or a device-side assert that names neither the row nor the id.

    How it is measured: exact, over all rows, or over the stated sample of a dataset that has no
    columns to read.

    How to fix: tokenize again with the tokenizer of this model; after adding tokens call
    ``model.resize_token_embeddings(len(tokenizer))``.

    Known false alarms: none known.

    References: read: torch.nn.Embedding.
    """
    try:
        scan.train.require_tokens()
    except Skip:
        if not (texts := collated_ids(pipeline, scan)):
            raise
        yield from _of_batch(texts, _embedding_rows(pipeline))
        return
    size = _embedding_rows(pipeline)
    for split in scan.splits:
        for extreme in (split.lowest, split.highest):
            if extreme is not None and not 0 <= extreme[0] < size:
                yield Finding(
                    f"{split.row(extreme[1])} has the id {extreme[0]}, "
                    f"the embedding has rows 0 to {size - 1}",
                    observed=extreme[0],
                    expected=f"0 to {size - 1}",
                    where=split.row(extreme[1]),
                    cause="the rows were tokenized for another model, or tokens were added since",
                    fix="tokenize again with this model's tokenizer, "
                    "or model.resize_token_embeddings(len(tokenizer))",
                )
    extremes = {
        split.name: [extreme[0] if extreme else None for extreme in (split.lowest, split.highest)]
        for split in scan.splits
    }
    found = ", ".join(f"{low} and {high} in {name}" for name, (low, high) in extremes.items())
    low, high = extremes[scan.train.name]
    yield Measured(
        f"ids lie between {found}; the embedding has {size} rows",
        {"lowest": low, "highest": high},
        f"0 to {size - 1}",
    )


def _of_batch(texts: list[Collated], size: int) -> Iterator[Measured | Finding]:
    """Hold the ids of the first step's texts against the embedding."""
    low = min((one for text in texts for one in text.ids), default=0)
    high = max((one for text in texts for one in text.ids), default=0)
    for text in texts:
        outside = next((one for one in text.ids if not 0 <= one < size), None)
        if outside is not None:
            yield Finding(
                f"row {text.row} of a micro-batch has the id {outside}, the embedding has rows 0 "
                f"to {size - 1}",
                observed=outside,
                expected=f"0 to {size - 1}",
                where=text.name,
                cause="the collator tokenizes for another model, or tokens were added since",
                fix="give it this model's tokenizer, or "
                "model.resize_token_embeddings(len(tokenizer))",
            )
            break
    yield Measured(
        f"ids of {len(texts)} texts of a micro-batch lie between {low} and {high}; the embedding "
        f"has {size} rows",
        {"lowest": low, "highest": high},
        f"0 to {size - 1}",
    )


def _embedding_rows(pipeline: Pipeline) -> int:
    size = embedding_rows(pipeline.model)
    if size is None:
        raise Skip("neither get_input_embeddings() nor the model's forward shows an embedding of "
                   "the ids")  # fmt: skip
    return int(size)
