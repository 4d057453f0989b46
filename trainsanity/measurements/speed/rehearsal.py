"""The longest batches of a run, a checkpoint and an evaluation, tried before it begins."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.callbacks import taking_part
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.out_of_memory import give_back, out_of_memory
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.trace import no_bars
from trainsanity.measurements.speed.longest import Longest
from trainsanity.measurements.speed.memory import Peak
from trainsanity.measurements.step.alone import alone
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

STEPS = 2
"""Optimizer steps of a rehearsed batch: from the second one on the optimizer's state is there."""

TRIES = 6
"""Batches that are tried to find the longest that fits: of N batches, N / 64 stay untried."""


@dataclass
class Batch:
    """A batch that was trained on for two steps.

    Attributes:
        rows: numbers of its rows.
        length: tokens of the longest of them.
        shape: of its token ids; empty where they were not seen.
        fits: whether it went through.
        asked: what was asked for when it did not.
        peaks: bytes at the most, in each step.
        seconds: of a micro-batch in the last step.
        chance: the share of the run's batches that are longer.
    """

    rows: list[int]
    length: int
    shape: tuple[int, ...] = ()
    fits: bool = False
    asked: str = ""
    peaks: list[int] = field(default_factory=list)
    seconds: float = math.nan
    chance: float = 0.0


@dataclass
class Checkpoint:
    """A checkpoint as the Trainer writes it.

    Attributes:
        size: bytes, of files or as the weights and states add up.
        seconds: that it took to write; NaN where it was not written.
        free: bytes that are free where the run writes its checkpoints.
        words: why it was not written.
    """

    size: int = 0
    seconds: float = math.nan
    free: int = 0
    words: str = ""


@dataclass
class Rehearsal:
    """What the run will meet.

    Attributes:
        batches: that were tried, in order.
        words: how the run forms its batches, or why the longest is not known.
        counted: what the peaks count.
        available: bytes of memory that this process could have.
        each: batches of a step, over all processes.
        checkpoint: as it was written; None where the run writes none.
        untried: why something was not tried, a sentence each.
    """

    batches: list[Batch] = field(default_factory=list)
    words: str = ""
    counted: str = ""
    available: int = 0
    each: int = 1
    checkpoint: Checkpoint | None = None
    untried: list[str] = field(default_factory=list)

    @property
    def fits(self) -> Batch | None:
        """The longest batch that went through."""
        return max((b for b in self.batches if b.fits), key=lambda b: b.length, default=None)

    @property
    def fails(self) -> Batch | None:
        """The shortest batch that did not."""
        return min((b for b in self.batches if not b.fits), key=lambda b: b.length, default=None)


@measurement(Cost.RUN)
def rehearsal(pipeline: Pipeline, longest: Longest) -> Rehearsal:
    """Take the real step on the longest batch; on shorter ones until one fits, if it does not."""
    refuse_sharded(pipeline)
    seen, args = Rehearsal(words=longest.words), pipeline.args
    seen.each = args.gradient_accumulation_steps * (args.world_size or 1)
    peak = Peak(pipeline.trainer.args.device)
    seen.counted, seen.available = peak.words, peak.available
    # Batches are ordered by length: the first that fits lies between these two.
    fails, fits = -1, len(longest.batches)
    number = 0
    for _ in range(TRIES + 1):
        batch = Batch(longest.batches[number], longest.lengths[number])
        batch.chance = longest.chances[number]
        _take(pipeline, seen, batch, peak)
        seen.batches.append(batch)
        fails, fits = (fails, number) if batch.fits else (number, fits)
        if fits - fails <= 1:
            break
        number = (fails + fits) // 2
    if fits == len(longest.batches):
        seen.untried.append("no batch went through: checkpoint and hours are not known")
    return seen


def _take(pipeline: Pipeline, seen: Rehearsal, batch: Batch, peak: Peak) -> None:
    """Train on the batch for two steps, the last of them with a checkpoint if none was written."""
    trainer = pipeline.trainer
    saves = str(getattr(trainer.args.save_strategy, "value", trainer.args.save_strategy)) != "no"
    output_dir = str(trainer.args.output_dir)
    with scratch() as folder, preserved(pipeline, weights=True), quiet(pipeline), no_bars():
        pipeline.model.zero_grad()
        conductor = _Conductor(pipeline, seen, batch, peak)
        conductor.saves = saves and seen.checkpoint is None
        conductor.output_dir = output_dir
        # Gradients are there from the second micro-batch on; more of them take no more memory.
        trainer.args.gradient_accumulation_steps = min(trainer.args.gradient_accumulation_steps, 2)
        count = STEPS * trainer.args.gradient_accumulation_steps * (trainer.args.world_size or 1)
        alone(trainer, folder, conductor.callback(), users=taking_part(trainer))
        # An epoch of so few rows may be planned to end within a step.
        if trainer.args.max_steps <= 0:
            trainer.args.max_steps = STEPS
        _only(trainer, batch.rows, count)
        conductor.wrap()
        peak.begin()
        try:
            trainer.train()
            batch.fits = len(batch.peaks) > 0
        except Exception as error:
            asked = out_of_memory(error)
            if asked is None:
                raise
            batch.asked = asked.strip(" ()")
            give_back(error)
        finally:
            pipeline.model.zero_grad()
    _empty(trainer.args.device)


def _only(trainer: Any, rows: Sequence[int], times: int) -> None:
    """Let the run read these rows alone, batch after batch in this order."""
    from torch.utils.data import SequentialSampler, Subset

    data, chosen = trainer.train_dataset, [*rows] * times
    some = data.select(chosen) if hasattr(data, "select") else Subset(data, chosen)
    trainer.train_dataset = some
    trainer._get_train_sampler = lambda *_, **__: SequentialSampler(some)


class _Conductor:
    """Reads memory and time of each step, and stops the run after the last."""

    def __init__(self, pipeline: Pipeline, seen: Rehearsal, batch: Batch, peak: Peak) -> None:
        self.trainer, self.seen, self.batch, self.peak = pipeline.trainer, seen, batch, peak
        self.saves = False
        self.output_dir = ""
        self.begun = 0.0
        self.took: list[float] = []

    def wrap(self) -> None:
        """Note shape and seconds of each micro-batch; undone by :func:`preserved`."""
        step = self.trainer.training_step

        def training_step(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            ids = inputs.get("input_ids") if hasattr(inputs, "get") else None
            self.batch.shape = tuple(ids.shape) if ids is not None else ()
            begin = time.perf_counter()
            loss = float(step(model, inputs, *rest, **more))  # which waits for the device
            self.took.append(time.perf_counter() - begin)
            import torch

            return torch.tensor(loss, device=self.trainer.args.device)

        self.trainer.training_step = training_step

    def callback(self) -> Any:
        """Return the callback that does so."""
        from transformers import TrainerCallback

        conductor = self

        class Conductor(TrainerCallback):
            """Reads the peak after each step."""

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                conductor.end_step(state)
                control.should_log = control.should_evaluate = False
                last = len(conductor.batch.peaks) >= STEPS
                control.should_save = last and conductor.can_save(kwargs.get("optimizer"))
                control.should_training_stop = control.should_training_stop or last
                conductor.begun = time.perf_counter()
                return control

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                conductor.saved(args.output_dir)

            def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                control.should_save = control.should_evaluate = control.should_log = False
                return control

        return Conductor()

    def end_step(self, state: Any) -> None:
        """Note the step's peak and the seconds of its micro-batches."""
        self.batch.peaks.append(self.peak.read())
        self.batch.seconds = sum(self.took) / len(self.took) if self.took else math.nan
        self.took.clear()
        self.peak.begin()

    def can_save(self, optimizer: Any) -> bool:
        """Return whether a checkpoint is to be written, and fits where temporary files lie."""
        if not self.saves:
            return False
        size = bytes_of(self.trainer.model, optimizer)
        free = shutil.disk_usage(self.trainer.args.output_dir).free
        found = Checkpoint(size, math.nan, free_at(self.output_dir))
        self.seen.checkpoint = found
        if size > free:
            found.words = "it does not fit where temporary files lie, and was not written"
        return size <= free

    def saved(self, folder: str) -> None:
        """Note size and seconds of the checkpoint."""
        found = self.seen.checkpoint
        if found is not None:
            found.seconds = time.perf_counter() - self.begun
            found.size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def bytes_of(model: Any, optimizer: Any) -> int:
    """Return the bytes of weights and of the optimizer's state."""
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)
    states = [] if inner is None else list(inner.state.values())
    tensors = [value for state in states for value in state.values() if torch.is_tensor(value)]
    tensors += [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def free_at(folder: str) -> int:
    """Return the free bytes of the disk on which a folder lies or will lie."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free if os.access(path, os.R_OK) else 0


def _empty(device: Any) -> None:
    if device.type == "cuda":
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()
