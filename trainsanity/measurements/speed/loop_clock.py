"""The steps of a custom training loop by the clock."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet
from trainsanity.measurements.speed import clock as part
from trainsanity.measurements.speed.clock import Clock
from trainsanity.measurements.speed.figures import Clocked, Micro, sizes_of

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def clock_loop(pipeline: Pipeline, seen: Clocked, micro_batches: int, budget: float) -> None:
    """Call ``train_step`` by the clock; what the loop reads its rows with is not seen.

    Forward is what the model's own call takes, the optimizer its ``step()``; the rest, the backward
    pass and the loss among it, is told as one.
    """
    count = pipeline.args.gradient_accumulation_steps
    clock = Clock(pipeline.device)
    begun = time.perf_counter()
    with preserved(pipeline, weights=True), quiet(pipeline), ExitStack() as stack:
        _hook(pipeline, clock, stack)
        for number, batch in enumerate(drawn(pipeline, 1 + -(-micro_batches // count))):
            inputs = [dict(micro.inputs) for micro in batch]
            begin = clock.wait()
            pipeline.train_step(inputs)  # type: ignore[misc]
            taken = clock.wait() - begin
            if not number:
                clock.parts.clear()
                continue
            seen.steps.append(taken)
            sizes = [sizes_of(one) for one in inputs]
            seen.micros += [Micro(0.0, taken / count, *one, apart=False) for one in sizes]
            if time.perf_counter() - begun > budget:
                break
        pipeline.model.zero_grad()
    seen.parts, seen.parts_of = dict(clock.parts), sum(seen.steps)
    seen.parts[part.OTHER] = max(seen.parts_of - sum(seen.parts.values()), 0.0)
    seen.untried.append("a custom loop's wait for rows, its backward pass and other settings of "
                        "its steps are not seen apart")  # fmt: skip


def _hook(pipeline: Pipeline, clock: Clock, stack: ExitStack) -> None:
    """Time the model's forward and the optimizer's step, on the objects' own hooks."""
    open_blocks: list[Any] = []

    def begin(name: str) -> None:
        open_blocks.append(clock.timing(name))
        open_blocks[-1].__enter__()

    def end() -> None:
        if open_blocks:
            open_blocks.pop().__exit__(None, None, None)

    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    handles = [
        pipeline.model.register_forward_pre_hook(lambda *_: begin(part.FORWARD)),
        pipeline.model.register_forward_hook(lambda *_: end()),
        optimizer.register_step_pre_hook(lambda *_: begin(part.OPTIMIZER)),
        optimizer.register_step_post_hook(lambda *_: end()),
    ]
    for handle in handles:
        stack.callback(handle.remove)
