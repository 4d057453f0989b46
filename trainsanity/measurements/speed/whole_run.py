"""The figures from which the hours of a whole run are computed."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.data.scan import Scan
from trainsanity.measurements.runs.trace import no_bars
from trainsanity.measurements.speed.clocked import clock_trainer
from trainsanity.measurements.speed.figures import Clocked
from trainsanity.measurements.speed.longest import lengths_of
from trainsanity.measurements.speed.memory import Peak
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MICRO_BATCHES, STEPS = 48, 4
"""Micro-batches and steps that are timed at the least: chosen, so that the rows of one batch do not
decide on the hours."""

USUAL = 4
"""Batches of evaluation data that are timed, the first ones: chosen."""


@dataclass
class EvaluationCost:
    """One dataset's evaluation.

    Attributes:
        name: of the dataset.
        batches: of the whole of it, on this process.
        seconds: of a usual batch; NaN where none went through.
        longest: tokens of its longest row; 0 where that is not known.
        fits: whether the longest batch went through.
        asked: what was asked for when it did not.
        peak: bytes at the most, while it did.
        kept: bytes of predictions that stay on the device until all of them are there, estimated.
        words: why something is not known.
    """

    name: str
    batches: int = 0
    seconds: float = math.nan
    longest: int = 0
    fits: bool = True
    asked: str = ""
    peak: int = 0
    kept: int = 0
    words: str = ""


@dataclass
class WholeRun:
    """Usual steps, and what else the run does.

    Attributes:
        usual: steps on the rows that the run reads first; None where they do not fit.
        saves: checkpoints that it writes.
        evaluations: how often it evaluates.
        costs: of each evaluation dataset.
        words: why something is not known.
    """

    usual: Clocked | None = None
    saves: int = 0
    kept: int = 0
    evaluations: int = 0
    costs: list[EvaluationCost] = field(default_factory=list)
    words: str = ""


@measurement(Cost.RUN)
def whole_run(pipeline: Pipeline, scan: Scan) -> WholeRun:
    """Time usual steps, and the evaluation's usual and longest batch."""
    refuse_sharded(pipeline)
    if pipeline.trainer is None:
        raise Skip("how long a custom training loop goes on is not known")
    seen, args = WholeRun(), pipeline.args
    wanted = max(-(-MICRO_BATCHES // args.gradient_accumulation_steps), STEPS)
    try:
        seen.usual = clock_trainer(pipeline, wanted)
    except Exception as error:
        asked = out_of_memory(error)
        if asked is None:
            raise
        give_back(error)
        seen.words = f"usual steps ran out of memory{asked}"
    if seen.usual is not None and seen.usual.steps:
        steps, epochs = seen.usual.max_steps, _epochs(pipeline, seen.usual.max_steps)
        seen.saves = times(args, "save", steps, epochs)
        seen.evaluations = times(args, "eval", steps, epochs)
        limit = getattr(args, "save_total_limit", None)
        # The oldest one goes when the new one is written.
        seen.kept = min(seen.saves, limit + 1) if limit else seen.saves
    if pipeline.eval_dataset is not None:
        seen.costs = [_cost(pipeline, *one) for one in _datasets(pipeline, scan)]
    return seen


def times(args: Any, what: str, steps: int, epochs: float) -> int:
    """Return how often a run saves or evaluates, by its arguments.

    Args:
        args: of the Trainer.
        what: ``save`` or ``eval``.
        steps: optimizer steps of the run.
        epochs: epochs of the run.
    """
    strategy = getattr(args, f"{what}_strategy", "no")
    strategy = str(getattr(strategy, "value", strategy))
    every = getattr(args, f"{what}_steps", None) or getattr(args, "logging_steps", None) or 0
    if strategy == "epoch":
        return math.ceil(epochs)
    if strategy != "steps" or not every:
        return 0
    return steps // int(every if every >= 1 else max(math.ceil(every * steps), 1))


def _epochs(pipeline: Pipeline, steps: int) -> float:
    args = pipeline.args
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    try:
        rows = len(pipeline.train_dataset)
    except TypeError:
        return 1.0
    step = args.train_batch_size * args.gradient_accumulation_steps * (args.world_size or 1)
    return float(steps * step / max(rows, 1))


def _datasets(pipeline: Pipeline, scan: Scan) -> list[tuple[str, Any, Sequence[int]]]:
    """Return name, rows and lengths of each evaluation dataset; no lengths where not known."""
    data = pipeline.eval_dataset
    named = dict(data) if isinstance(data, Mapping) else {"eval_dataset": data}
    found = []
    for (name, rows), split in zip(named.items(), scan.evals, strict=False):
        try:
            lengths: Sequence[int] = lengths_of(split)
        except Skip:
            lengths = ()
        found.append((str(name), rows, lengths))
    return found


def _cost(pipeline: Pipeline, name: str, rows: Any, lengths: Sequence[int]) -> EvaluationCost:
    trainer, cost = pipeline.trainer, EvaluationCost(name)
    size = trainer.args.eval_batch_size
    if not hasattr(rows, "select") or not len(rows):
        cost.words = "its rows cannot be chosen from, and its evaluation was not timed"
        return cost
    cost.batches = -(-len(rows) // (size * (trainer.args.world_size or 1)))
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)[:size]
    peak = Peak(trainer.args.device)
    with scratch() as folder, preserved(pipeline), quiet(pipeline), no_bars():
        align_special_tokens(pipeline)  # as train() does
        trainer.callback_handler.callbacks = []
        trainer.args.output_dir = folder
        trainer.compute_metrics, metrics = None, trainer.compute_metrics
        try:
            trainer.evaluate(rows.select(range(min(size, len(rows)))))
            usual = rows.select(range(min(USUAL * size, len(rows))))
            begin = time.perf_counter()
            trainer.evaluate(usual)
            cost.seconds = (time.perf_counter() - begin) / -(-len(usual) // size)
            if order:
                cost.longest = lengths[order[0]]
                peak.begin()
                trainer.evaluate(rows.select(order))
                cost.peak = peak.read()
                if metrics is not None and not trainer.args.prediction_loss_only:
                    cost.kept = _kept(trainer, rows, order)
        except Exception as error:
            asked = out_of_memory(error)
            if asked is None:
                cost.words = f"evaluate() raised {type(error).__name__}: {first_line(error)}"
            else:
                give_back(error)
                cost.fits, cost.asked = False, asked.strip(" ()")
    return cost


def _kept(trainer: Any, rows: Any, order: Sequence[int]) -> int:
    """Return the bytes of all predictions, which are padded to the widest and kept until the end.

    With ``eval_accumulation_steps`` they leave the device before that.
    """
    import torch

    if trainer.args.eval_accumulation_steps is not None:
        return 0
    batch = next(iter(trainer.get_eval_dataloader(rows.select(order))))
    with torch.no_grad():
        _, logits, labels = trainer.prediction_step(trainer.model, batch, False)
        if trainer.preprocess_logits_for_metrics is not None:
            logits = trainer.preprocess_logits_for_metrics(logits, labels)
    return int(_bytes(logits) / len(order) * len(rows))


def _bytes(value: Any) -> int:
    import torch

    if torch.is_tensor(value):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0
