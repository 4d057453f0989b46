"""Pairs of a chosen and a rejected side, as the model is given them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet
from trainsanity.objectives.preference import has_pairs
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

PAIRS = 256
"""Pairs that are collated: a share of a tenth is known to within a fiftieth."""

BATCHES = 64


@dataclass
class Side:
    """One side of a pair in its batch.

    Attributes:
        ids: its tokens, padding left out.
        counted: those that the loss counts as the answer; None if the batch does not say.
    """

    ids: tuple[int, ...]
    counted: tuple[int, ...] | None = None


@dataclass
class Pairs:
    """The first pairs of the training data.

    Attributes:
        both: chosen and rejected side of each.
        equal_rows: how many of the same rows hold the same answer twice before they are tokenized;
            None if the columns do not show it.
    """

    both: list[tuple[Side, Side]] = field(default_factory=list)
    equal_rows: int | None = None


@measurement(Cost.STATIC)
def pairs(pipeline: Pipeline) -> Pairs:
    """Collate the first rows as the Trainer does, and take the batches apart into pairs.

    Raises:
        Skip: rows and batches hold no pairs.
    """
    columns = getattr(pipeline.train_dataset, "column_names", None)
    if columns and not has_pairs(columns):
        raise Skip("the rows hold no chosen and rejected sides")
    found = Pairs()
    for batch in batches_of(pipeline):
        found.both += _apart(pipeline, batch)
        if not found.both or len(found.both) >= PAIRS:
            break
    if not found.both:
        raise Skip("the batches hold no chosen and rejected sides")
    found.equal_rows = _equal_rows(pipeline.train_dataset)
    return found


def batches_of(pipeline: Pipeline) -> Iterator[Mapping[str, Any]]:
    """Yield the first batches of the training data.

    Raises:
        Skip: a batch is no dictionary.
    """
    trainer = pipeline.trainer
    with preserved(pipeline), quiet(pipeline):
        if trainer is None:
            size = pipeline.args.train_batch_size * pipeline.args.gradient_accumulation_steps
            steps = max(1, min(BATCHES, len(pipeline.train_dataset) // size)) if hasattr(
                pipeline.train_dataset, "__len__") else BATCHES  # fmt: skip
            for several in drawn(pipeline, steps):
                yield from (one.inputs for one in several)
            return
        for number, batch in enumerate(trainer.get_train_dataloader()):
            if not isinstance(batch, Mapping):
                raise Skip("the data loader yields rows that are no batch yet")
            yield batch
            if number + 1 >= BATCHES:
                return


def _apart(pipeline: Pipeline, batch: Mapping[str, Any]) -> list[tuple[Side, Side]]:
    import torch

    for name, ids in batch.items():
        other = name.replace("chosen", "rejected")
        if "chosen" not in name or other not in batch or not _are_ids(name, ids):
            continue
        chosen, rejected = sides_of(batch, name, ids), sides_of(batch, other, batch[other])
        return list(zip(chosen, rejected, strict=True))
    ids = batch.get("input_ids")
    if not has_pairs(getattr(pipeline.train_dataset, "column_names", None)):
        return []
    if not torch.is_tensor(ids) or ids.dim() != 2 or len(ids) % 2:
        return []
    sides = sides_of(batch, "input_ids", ids)
    half = len(sides) // 2
    ways = (
        list(zip(sides[:half], sides[half:], strict=True)),
        list(zip(sides[::2], sides[1::2], strict=True)),
    )
    # Two sides of a pair begin with one prompt: that tells halves from neighbours.
    return max(ways, key=lambda way: sum(common_prefix(a.ids, b.ids) for a, b in way))


def _are_ids(name: str, value: Any) -> bool:
    import torch

    return (
        torch.is_tensor(value)
        and value.dim() == 2
        and not value.is_floating_point()
        and name.endswith("ids")
        and "type" not in name
    )


def sides_of(batch: Mapping[str, Any], name: str, ids: Tensor) -> list[Side]:
    """Return each row of a batch without its padding, and with what is counted of it."""
    mask = batch.get(name.replace("input_ids", "attention_mask"))
    counted = batch.get(name.replace("input_ids", "completion_mask"))
    if counted is None and (labels := batch.get(name.replace("input_ids", "labels"))) is not None:
        counted = labels != -100
    made = []
    for k, row in enumerate(ids.tolist()):
        real = mask[k].tolist() if mask is not None else [1] * len(row)
        shown = [token for token, one in zip(row, real, strict=False) if one]
        answer = None
        if counted is not None and counted.shape == ids.shape:
            answer = tuple(t for t, one in zip(row, counted[k].tolist(), strict=True) if one)
        made.append(Side(tuple(shown), answer))
    return made


def common_prefix(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens two sequences share at their beginning."""
    size = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        size += 1
    return size


def _equal_rows(data: Any) -> int | None:
    """Return how many of the first rows hold equal answers, in whatever form the columns have."""
    names = list(getattr(data, "column_names", None) or ())
    for name in names:
        other = name.replace("chosen", "rejected")
        if "chosen" in name and other in names and hasattr(data, "__getitem__"):
            rows = (data[k] for k in range(min(PAIRS, len(data))))
            first = data[0][name]
            if isinstance(first, str | list):
                return sum(bool(row[name] == row[other]) for row in rows)
    return None
