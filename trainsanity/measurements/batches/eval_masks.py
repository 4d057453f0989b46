"""Which tokens are targets in training rows and in evaluation rows, beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.documents import Documents
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 32
"""Rows of each evaluation set that are collated."""

Row = tuple[Sequence[int], Sequence[int]]
"""The ids of a row without padding, and the label beside each."""


@dataclass(frozen=True)
class Mask:
    """The targets of a few rows.

    Attributes:
        name: of the data.
        rows: how many, of three tokens and more.
        hidden: rows that begin with tokens which are no targets; the first token is none by nature.
        whole: rows of which every token is a target.
        counted, tokens: targets, and tokens that could be some.
        marker: the tokens after which the targets of most rows begin, four at the most; empty if
            they have none in common.
        marked: rows that hold the marker of the training data, and no more often than a row there.
        most: how often a row of the training data holds it.
    """

    name: str
    rows: int
    hidden: int
    whole: int
    counted: int
    tokens: int
    marker: tuple[int, ...]
    marked: int
    most: int = 0


COMMON = 0.9
"""Share of rows whose targets begin behind the same tokens where a template writes them there."""

LONGEST = 4
"""Tokens of what stands between question and answer: the opening of a header, a role, its end and a
line break.  One alone, as a colon, stands in any text."""


@measurement(Cost.STATIC)
def eval_masks(pipeline: Pipeline, documents: Documents) -> list[Mask]:
    """Collate rows of each evaluation set as the Trainer does, beside those of the training data.

    Raises:
        Skip: there is no Trainer, no evaluation data, or rows hold several documents.
    """
    if pipeline.trainer is None or not pipeline.eval_dataset:
        raise Skip("there is no evaluation data that a Trainer collates")
    if documents.shifted or documents.apart:
        raise Skip("rows hold several documents, or labels of the next token")
    evals = pipeline.eval_dataset
    named = evals if isinstance(evals, Mapping) else {"eval_dataset": evals}
    train = _mask("train_dataset", [(one.ids, one.labels) for one in documents.found], None)
    with preserved(pipeline), quiet(pipeline):
        disable_workers(pipeline.trainer.args)
        return [train, *(_mask(name, _rows(pipeline, data), train) for name, data in named.items())]


def _rows(pipeline: Pipeline, data: Any) -> list[Row]:
    """Return a few rows, evenly spaced, as the Trainer's evaluation loader collates them."""
    from torch.utils.data import Subset

    if not is_indexable(data) or not len(data):
        raise Skip("the evaluation data is a stream, or empty")
    count = min(len(data), ROWS)
    chosen = [k * len(data) // count for k in range(count)]
    some = data.select(chosen) if hasattr(data, "select") else Subset(data, chosen)
    found: list[Row] = []
    try:
        for batch in pipeline.trainer.get_eval_dataloader(some):
            found += _of_batch(pipeline, batch)
    except Skip:
        raise
    except Exception as error:  # a loader of the user's own
        said = f"{type(error).__name__}: {first_line(error)}"
        raise Skip(f"the Trainer's evaluation loader raised {said}") from error
    return found


def _of_batch(pipeline: Pipeline, batch: Any) -> list[Row]:
    given = batch if isinstance(batch, Mapping) else {}
    ids, labels = given.get("input_ids"), given.get("labels")
    if ids is None or labels is None or ids.shape != labels.shape or ids.dim() != 2:
        raise Skip("evaluation batches have no label beside each token")
    mask = batch.get("attention_mask")
    pad = getattr(pipeline.tokenizer, "pad_token_id", None)
    if mask is not None and mask.shape == ids.shape:
        kept = mask.bool()
    else:
        kept = (labels != IGNORED) | ((ids != pad) if pad is not None else True)
    return [
        (one[own].tolist(), said[own].tolist())
        for one, said, own in zip(ids, labels, kept, strict=True)
    ]


def _mask(name: str, rows: Sequence[Row], train: Mask | None) -> Mask:
    rows = [(ids, labels) for ids, labels in rows if len(ids) > 2]
    before: Counter[tuple[int, ...]] = Counter()
    hidden = whole = counted = 0
    for ids, labels in rows:
        targets = [t for t in range(1, len(ids)) if labels[t] != IGNORED]
        counted += len(targets)
        whole += len(targets) == len(ids) - 1
        if targets and targets[0] > 1:
            hidden += 1
            before.update(tuple(ids[targets[0] - k : targets[0]]) for k in _sizes(targets[0]))
    often = [part for part, count in before.items() if count >= COMMON * len(rows)]
    marker = max(often, key=len, default=())
    wanted = marker if train is None else train.marker
    held = [_count(ids, wanted) for ids, _ in rows] if wanted else []
    most = max(held, default=0) if train is None else train.most
    return Mask(
        name,
        len(rows),
        hidden,
        whole,
        counted,
        sum(len(ids) - 1 for ids, _ in rows),
        marker,
        sum(1 <= count <= most for count in held),
        most,
    )


def _sizes(place: int) -> range:
    return range(1, min(LONGEST, place) + 1)


def _count(ids: Sequence[int], part: tuple[int, ...]) -> int:
    size = len(part)
    return sum(tuple(ids[t : t + size]) == part for t in range(len(ids) - size + 1))
