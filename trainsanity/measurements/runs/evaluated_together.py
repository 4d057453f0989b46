"""What an evaluation of the user's own makes of one row among others, on several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

LOOKED_AT = 64
"""Rows among which another one with as many targets is looked for."""

TRIES = 4
"""Rows that are asked for a metric of their own, different from the first row's."""

LINEAR = ("loss", "accuracy")
"""Ends of the names of metrics that are means over rows; F1 or perplexity are none."""

TIMES = 10
"""A row has to move the mean by so many times what is allowed before its weight can be read."""

DIGITS = 4
"""Decimals that people round their metrics to; fewer tell no row from another."""


@dataclass(frozen=True)
class EvaluatedTogether:
    """One metric of full rounds of one row, and of the same with one other row behind them.

    Attributes:
        metric: its name.
        rows: how many rows a full round has, over all processes.
        alone: for a round of copies of the row.
        one_more: for a round of copies of the row and one more: what the shape of the batches and
            random numbers make of the same mean.
        other: for a round of copies of the other row.
        together: for the round of the row, followed by the other row once; one value for each
            process that returned one.
        repeated: share of repeated rows that fill up the last round of the whole evaluation data.
    """

    metric: str
    rows: int
    alone: float
    one_more: float
    other: float
    together: list[float]
    repeated: float

    @property
    def expected(self) -> float:
        """The mean over all rows."""
        return self.alone + (self.other - self.alone) / (self.rows + 1)

    @property
    def allowed(self) -> float:
        """Return the difference that arithmetic, or rounding to four digits, explains."""
        values = (self.alone, self.one_more, self.other)
        rounded = all(round(value, DIGITS) == value for value in values)
        noise = MARGIN * abs(self.one_more - self.alone)
        largest = max(map(abs, values))
        return noise + REDUCTIONS * largest + (10.0**-DIGITS if rounded else 0.0)

    @property
    def told_apart(self) -> bool:
        """Return whether one row among the others moves the mean by enough."""
        return abs(self.expected - self.alone) > TIMES * self.allowed

    def weight(self, process: int = 0) -> float:
        """Return the share that the other row has in what this process returned."""
        return (self.together[process] - self.alone) / (self.other - self.alone)


@measurement(Cost.STEP)
def evaluated_together(pipeline: Pipeline) -> EvaluatedTogether:
    """Evaluate copies of two rows, and then both, on all processes.

    Raises:
        Skip: there is one process, the library's own evaluation loop runs, no metric is a mean, or
            no row with as many targets has another value.
    """
    trainer = pipeline.trainer
    if pipeline.other_processes is None:
        raise Skip("one process evaluates alone")
    if trainer is None:
        raise Skip("a custom training loop has no evaluate()")
    if not own_methods(trainer, ("evaluate", "evaluation_loop")):
        raise Skip("the library's own evaluate() gathers what the processes return")
    data = trainer.eval_dataset
    if data is None or isinstance(data, Mapping) or not is_indexable(data) or len(data) < 2:
        raise Skip("the evaluation data is not one dataset of rows with indices")
    size = trainer.args.eval_batch_size * trainer.args.world_size
    repeated = -len(data) % size / len(data)
    with (
        scratch() as folder,
        preserved(pipeline, weights=True),
        quiet(pipeline),
        _no_loop_of_the_library(),
    ):
        others = _alike(data)
        align_special_tokens(pipeline)  # as inside train(), where evaluation takes place
        trainer.callback_handler.callbacks = []
        trainer.args.output_dir = folder
        trainer.args.disable_tqdm = True
        trainer.args.dataloader_drop_last = False
        trainer.args.dataloader_num_workers = 0
        trainer.args.dataloader_prefetch_factor = None
        trainer.args.dataloader_persistent_workers = False
        # The same on all processes, which then evaluate together or not at all.
        alone, one_more = (
            all_gather(_evaluate(trainer, data, [0] * count))[0] for count in (size, size + 1)
        )
        for k in others[:TRIES]:
            other = all_gather(_evaluate(trainer, data, [k] * size))[0]
            both = all_gather(_evaluate(trainer, data, [0] * size + [k]))
            for name in sorted(alone.keys() & one_more.keys() & other.keys()):
                values = [metrics[name] for metrics in both if name in metrics]
                found = EvaluatedTogether(
                    name, size, alone[name], one_more[name], other[name], values, repeated
                )
                if name.endswith(LINEAR) and found.told_apart:
                    return found
    raise Skip("no metric that is a mean tells two rows of as many targets apart")


@contextmanager
def _no_loop_of_the_library() -> Iterator[None]:
    """Raise Skip where an evaluation calls the Trainer's own loop, which weighs batches as it does.

    It repeats a batch's mean for each of its rows, the repeated ones among them.
    """
    from transformers import Trainer

    own = Trainer.evaluation_loop

    def evaluation_loop(*_: Any, **__: Any) -> Any:
        raise Skip("the library's own evaluation loop gathers what the processes return")

    kept: Any = Trainer
    kept.evaluation_loop = evaluation_loop
    try:
        yield
    finally:
        kept.evaluation_loop = own


def _alike(data: Any) -> list[int]:
    """Return rows with as many targets as the first one has, those of another label first."""
    first, label = _targets(data[0]), repr(_label(data[0]))
    found = [k for k in range(1, min(len(data), LOOKED_AT)) if _targets(data[k]) == first]
    return sorted(found, key=lambda k: repr(_label(data[k])) == label)


def _label(row: Any) -> Any:
    if not isinstance(row, Mapping):
        return None
    return next((row[name] for name in ("labels", "label", "label_ids") if name in row), None)


def _targets(row: Any) -> Any:
    """Return how many targets the row has; its fields' lengths where the collator makes them."""
    label = _label(row)
    if isinstance(label, (list, tuple)):
        return sum(one != -100 for one in label)
    if label is not None or not isinstance(row, Mapping):
        return 1
    return sorted((name, len(value)) for name, value in row.items() if hasattr(value, "__len__"))


def _evaluate(trainer: Any, data: Any, places: list[int]) -> dict[str, float]:
    from torch.utils.data import Subset

    rows = data.select(places) if hasattr(data, "select") else Subset(data, places)
    trainer.eval_dataset = rows
    returned = trainer.evaluate()
    found = returned.items() if isinstance(returned, Mapping) else ()
    return {
        str(name): float(value)
        for name, value in found
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
