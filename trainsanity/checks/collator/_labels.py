"""Shared by checks of the collator stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session, objective_of
from trainsanity.fields import with_targets
from trainsanity.maths.alignment import Placement, place
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Rows
from trainsanity.objectives.base import IGNORED

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Labelled:
    """One row, its labels and where both came to lie.

    Attributes:
        i: the row's number.
        row: as the collator was given it.
        own: the labels that the row brings, one per token; None if it brings none.
        got: the batch's labels on its tokens.
        padding: the batch's labels around them.
        starts: places at which a document begins, whose token nothing predicts.
    """

    i: int
    row: Mapping[str, Any]
    own: list[Any] | None
    got: list[Any]
    padding: list[Any]
    starts: frozenset[int] = frozenset({0})


def _per_token(pipeline: Pipeline) -> bool:
    """Return whether the task has a label for each token rather than some for each row."""
    objective = objective_of(pipeline)
    if objective.known:
        return not objective.of_rows
    # Nobody knows the loss: a label a row is a number, or a vector of floats.
    batch = Session.of(pipeline).measurements.get("batch")
    labels = batch.micro_batches[0].inputs.get("labels")
    return labels is None or (labels.dim() > 1 and not labels.is_floating_point())


def label_column(collating: Collating) -> str | None:
    """Return the key under which the sequences of the first step have their labels."""
    micro = collating.batch.micro_batches[0]
    rows, _ = collating.seen(micro)
    return collating.pipeline.label_column(rows[0])


def count_labelled(pipeline: Pipeline, batch: Batch) -> int:
    """Return how many labels the loss counts, before a language model's shift."""
    made = [with_targets([], micro.inputs, IGNORED)[1] for micro in batch]
    labels = [one["labels"] for one in made if "labels" in one]
    if _per_token(pipeline):
        return sum(int((one != IGNORED).sum()) for one in labels)
    return sum(len(one) for one in labels)


def _labelled(
    collating: Collating, rows: Rows, made: Made, column: str | None
) -> Iterator[Labelled]:
    """Yield each row whose labels can be found in the batch."""
    labels = made["labels"].tolist()
    for i, where in enumerate(collating.placed(rows, made)):
        own = list(rows[i][column]) if column is not None else None
        if where is None:
            continue  # collator.rows_recovered judges that
        if own is not None and len(own) != where.length:
            # A target with a length of its own, as translation has: it is its own row.
            yield from _target(i, rows[i], own, labels[i])
            continue
        if len(labels[i]) == where.width:
            yield Labelled(
                i,
                rows[i],
                own,
                where.inside(labels[i]),
                where.outside(labels[i]),
                _starts(where, i, made),
            )


def _starts(where: Placement, i: int, made: Made) -> frozenset[int]:
    """Return where a row's documents begin: at its first token, and where positions restart."""
    positions: Any = made.get("position_ids")
    if getattr(positions, "shape", None) != made["input_ids"].shape:
        return frozenset({0})
    own = where.inside(positions[i].tolist())
    return frozenset({0, *(t for t, position in enumerate(own) if not position)})


def _target(
    i: int, row: Mapping[str, Any], own: list[Any], labels: list[Any]
) -> Iterator[Labelled]:
    where = place(own, labels) or Placement(0, len(own), len(labels))
    inside = where.inside(labels)
    if len(inside) == len(own):
        yield Labelled(i, {**row, "input_ids": own}, own, inside, where.outside(labels))
