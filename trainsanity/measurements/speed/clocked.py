"""Steps of the run by the clock: the user's Trainer, or loop, with nothing in its way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.callbacks import taking_part
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.observed_collator import observed
from trainsanity.measurements.runs.trace import no_bars
from trainsanity.measurements.speed import clock as part
from trainsanity.measurements.speed.alternatives import alternatives_in
from trainsanity.measurements.speed.clock import Clock
from trainsanity.measurements.speed.figures import Clocked, Micro, MicroPass, sizes_of
from trainsanity.measurements.speed.loop_clock import clock_loop
from trainsanity.measurements.step.alone import alone
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MICRO_BATCHES = 24
"""Micro-batches that are timed, every other one as a whole.  Of 24 Kendall's statistic has a
standard deviation of 40 among 276 pairs: it is four of them though a fifth of the pairs fall."""

BUDGET = 90.0
"""Seconds after which no further step is begun, of a run whose steps take long: chosen, so that a
call of ``--select speed`` ends within minutes."""


@measurement(Cost.RUN)
def clocked(pipeline: Pipeline) -> Clocked:
    """Take steps by the clock, and the last one's micro-batch with other settings.

    Raises:
        Skip: there are no steps that could be taken again, or the run ends before the second.
    """
    refuse_sharded(pipeline)
    if pipeline.trainer is None:
        if pipeline.train_step is None:
            raise Skip("the steps of a script's own loop cannot be taken again by the clock")
        seen = Clocked()
        clock_loop(pipeline, seen, MICRO_BATCHES, BUDGET)
    else:
        wanted = -(-MICRO_BATCHES // pipeline.args.gradient_accumulation_steps)
        # On a GPU the second step finds torch's pool of memory empty, see end_step.
        warm = 2 if pipeline.trainer.args.device.type == "cuda" else 1
        seen = clock_trainer(pipeline, max(wanted, 2), asks=alternatives_in, warm=warm)
    if not seen.steps:
        raise Skip("the run ends with its first step, which warms up")
    return seen


Asks = Callable[["Pipeline", "Clocked", MicroPass], None]
"""Called before the last step's update, with its last micro-batch to be taken again."""


def clock_trainer(
    pipeline: Pipeline,
    steps: int,
    *,
    settings: Mapping[str, Any] | None = None,
    asks: Asks | None = None,
    warm: int = 1,
) -> Clocked:
    """Call ``trainer.train()``, take the time of its steps after the first, and put all back.

    Args:
        pipeline: with a Trainer.
        steps: how many are timed.
        settings: arguments of the Trainer that are others meanwhile.
        asks: called at the last step.
        warm: steps before those that are timed.
    """
    import torch

    trainer, seen = pipeline.trainer, Clocked()
    seen.processes = pipeline.args.world_size or 1
    cuda = trainer.args.device.type == "cuda"
    with scratch() as folder, preserved(pipeline, weights=True), quiet(pipeline), no_bars():
        for name, value in (settings or {}).items():
            setattr(trainer.args, name, value)
        pipeline.model.zero_grad()
        watch = _Watch(pipeline, seen, steps, warm, asks)
        alone(trainer, folder, watch.callback(), users=taking_part(trainer))
        watch.wrap()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(trainer.args.device)
        try:
            trainer.train()
        finally:
            pipeline.model.zero_grad()
            if cuda:
                torch.cuda.empty_cache()
    return seen


class _Watch:
    """Times what the Trainer calls, and stops it."""

    def __init__(
        self, pipeline: Pipeline, seen: Clocked, steps: int, warm: int, asks: Asks | None
    ) -> None:
        self.pipeline, self.trainer, self.seen = pipeline, pipeline.trainer, seen
        self.steps, self.warm, self.asks = steps, warm, asks
        self.clock = Clock(pipeline.trainer.args.device)
        self.taken = self.in_step = 0
        self.begun = self.step_begun = time.perf_counter()
        self.fetched: list[float] = []
        self.last: MicroPass | None = None
        self.optimizing: Any = None
        self.step_parts_of = 0.0

    @property
    def timed(self) -> bool:
        """Return whether the step counts."""
        return self.taken >= self.warm

    def wrap(self) -> None:
        """Put the clock around what a step consists of; undone by :func:`preserved`."""
        trainer, clock = self.trainer, self.clock
        if not trainer.args.dataloader_num_workers:  # a worker's time is its own
            trainer.data_collator = observed(
                trainer.data_collator,
                lambda call, rows: clock.timed(part.COLLATOR, call)(rows),
            )
        samples, step = trainer.get_batch_samples, trainer.training_step

        def get_batch_samples(iterator: Iterator[Any], *rest: Any, **more: Any) -> Any:
            clock.apart = True
            return samples(_Timed(iterator, self), *rest, **more)

        def training_step(model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
            return self._micro(step, model, inputs, *rest, **more)

        trainer.get_batch_samples, trainer.training_step = get_batch_samples, training_step
        trainer._prepare_inputs = clock.timed(part.COPY, trainer._prepare_inputs)
        trainer.compute_loss = clock.timed(part.FORWARD, trainer.compute_loss)
        accelerator = trainer.accelerator
        accelerator.backward = clock.timed(part.BACKWARD, accelerator.backward)
        accelerator.clip_grad_norm_ = clock.timed(part.CLIP, accelerator.clip_grad_norm_)

    def _micro(
        self, step: Callable[..., Any], model: Any, inputs: Any, *rest: Any, **more: Any
    ) -> Any:
        clock, seen = self.clock, self.seen
        # Every other one is timed as a whole, without a wait within it; of the last ones of a step,
        # whose gradients go to the other processes, every other, too.
        clock.apart = bool((self.in_step + self.taken) % 2)
        self.in_step += 1
        begin = clock.wait()
        before = dict(clock.parts)
        loss = step(model, inputs, *rest, **more)
        taken = clock.wait() - begin
        fetch = self.fetched.pop(0) if self.fetched else 0.0
        micro = Micro(
            fetch,
            taken,
            *sizes_of(inputs),
            apart=clock.apart,
            backward=clock.parts[part.BACKWARD] - before.get(part.BACKWARD, 0.0),
            last=bool(self.trainer.accelerator.sync_gradients),
        )
        if clock.apart:
            inside = sum(clock.parts.values()) - sum(before.values())
            clock.parts[part.OTHER] += taken - inside
        self.last = MicroPass(lambda given: step(model, given, *rest, **more), inputs, taken)
        if self.timed:
            seen.micros.append(micro)
        clock.apart = True
        return loss

    def callback(self) -> Any:
        """Return the callback that marks steps and their updates."""
        from transformers import TrainerCallback

        watch = self

        class Conductor(TrainerCallback):
            """Marks the steps, and stops the run after the last."""

            def on_train_begin(self, args: Any, state: Any, *_: Any, **kwargs: Any) -> None:
                watch.begun = watch.step_begun = watch.clock.wait()
                watch.seen.max_steps = int(state.max_steps)

            def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
                watch.optimizing = watch.clock.wait()

            def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
                if watch.optimizing is not None:
                    watch.clock.parts[part.OPTIMIZER] += watch.clock.wait() - watch.optimizing

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                watch.end_step(state, kwargs.get("optimizer"))
                control.should_log = control.should_save = control.should_evaluate = False
                control.should_training_stop = control.should_training_stop or watch.ends(state)
                return control

            def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
                control.should_save = control.should_evaluate = control.should_log = False
                return control

        return Conductor()

    def end_step(self, state: Any, optimizer: Any) -> None:
        """Note a step that counts, and ask at the last."""
        now, seen, clock = self.clock.wait(), self.seen, self.clock
        if self.timed:
            seen.steps.append(now - self.step_begun)
        self.taken, self.in_step = self.taken + 1, 0
        if self.taken <= self.warm and self.trainer.args.device.type == "cuda":
            import torch

            # The optimizer's state came to lie between freed activations.
            torch.cuda.empty_cache()
        if self.taken == self.warm:
            clock.parts.clear()
        if self.ends(state) and seen.steps:
            self._fold()
            if self.asks is not None and self.last is not None:
                self.last.optimizer = optimizer
                self.asks(self.pipeline, seen, self.last)
        self.step_begun = clock.wait()

    def ends(self, state: Any) -> bool:
        """Return whether the step that was taken is the last."""
        late = time.perf_counter() - self.begun > BUDGET and bool(self.seen.steps)
        # All processes stop at the same step.
        if self.seen.processes > 1:
            late = any(all_gather(late))
        return self.taken >= self.warm + self.steps or state.global_step >= state.max_steps or late

    def _fold(self) -> None:
        """Scale the parts of every other micro-batch to those of all of them."""
        seen, parts = self.seen, self.clock.parts
        apart = sum(one.seconds for one in seen.micros if one.apart)
        whole = sum(one.seconds for one in seen.micros)
        scale = whole / apart if apart else 1.0
        within = (part.COPY, part.FORWARD, part.BACKWARD, part.OTHER)
        seen.parts = {
            name: parts[name] * (scale if name in within else 1.0)
            for name in part.PARTS
            if name in parts
        }
        seen.parts_of = sum(seen.steps)
        rest = seen.parts_of - sum(seen.parts.values())
        seen.parts[part.OTHER] = max(seen.parts.get(part.OTHER, 0.0) + rest, 0.0)
        self._communication()
        if self.trainer.args.device.type == "cuda":
            import torch

            seen.peak_bytes = torch.cuda.max_memory_allocated(self.trainer.args.device)

    def _communication(self) -> None:
        """Tell what the backward passes that other processes wait for take longer than others."""
        seen = self.seen
        if seen.processes == 1:
            return
        apart = [one for one in seen.micros if one.apart]
        alone = [one.backward for one in apart if not one.last]
        together = [one.backward for one in apart if one.last]
        if not alone or not together:
            seen.untried.append("communication lies in the backward pass: without accumulation "
                                "there is none without it to compare")  # fmt: skip
            return
        longer = statistics.fmean(together) - statistics.fmean(alone)
        taken = min(max(longer * len(seen.steps), 0.0), seen.parts.get(part.BACKWARD, 0.0))
        seen.parts[part.BACKWARD] -= taken
        seen.parts[part.COMMUNICATION] = taken


class _Timed:
    """A loader's iterator whose batches are waited for by the clock."""

    def __init__(self, iterator: Iterator[Any], watch: _Watch) -> None:
        self._iterator, self._watch = iterator, watch

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> Any:
        begin = self._watch.clock.wait()
        with self._watch.clock.timing(part.WAIT):
            made = next(self._iterator)
        self._watch.fetched.append(time.perf_counter() - begin)
        return made
