"""Steps with an evaluation between them, beside the same steps without one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.random_states import random_states
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.runs.trace import (
    Plan,
    Trace,
    loop_state,
    max_weight_difference,
    plan_of,
    random_hashes,
    settings,
    trace,
)
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BATCHES = 4
"""Batches of evaluation data: what an evaluation leaves behind it leaves after the first."""


@dataclass
class Evaluated:
    """What two evaluations did in the middle of a run.

    Attributes:
        plan: they took place at its cut.
        straight: the run without them.
        evaluated: the run with them; the random states were put back after them.
        before, after: what the next step depends on (see :func:`.trace.loop_state`), on either
            side of the first evaluation.
        random: hashes of the random states before and after each of the two.
        difference: largest between the weights at the end of the two runs.
        noise: the same between two straight runs.
    """

    plan: Plan
    straight: Trace
    evaluated: Trace
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    random: list[tuple[dict[str, str], dict[str, str]]] = field(default_factory=list)
    difference: float = 0.0
    noise: float = 0.0


@measurement(Cost.RUN)
def evaluated(pipeline: Pipeline) -> Evaluated:
    """Train a few steps, and the same with the Trainer's own ``evaluate()`` in the middle.

    Raises:
        Skip: there is no Trainer, or the evaluation fails for a reason of its own.
    """
    if pipeline.trainer is None:
        raise Skip("a loop of one's own has no evaluate()")
    refuse_sharded(pipeline)
    plan = plan_of(pipeline)
    with scratch() as folder:
        straight = trace(pipeline, plan, folder)
        # Before the evaluation: what that changes for good would pass for noise.
        noise = max_weight_difference(straight, trace(pipeline, plan, folder))
        seen = Evaluated(plan, straight, Trace(), noise=noise)
        with _few_rows(pipeline), _settings(pipeline.model):
            seen.evaluated = trace(
                pipeline, plan, folder, between=lambda: _evaluate(pipeline.trainer, seen)
            )
        seen.difference = max_weight_difference(straight, seen.evaluated)
    return seen


@contextmanager
def _settings(model: Any) -> Iterator[None]:
    """Put plain attributes of modules back: the evaluation is the user's code."""
    before = settings(model)
    try:
        yield
    finally:
        for _, module, attribute, value in before:
            setattr(module, attribute, value)


def _evaluate(trainer: Any, seen: Evaluated) -> None:
    put_back = random_states()
    seen.before = loop_state(trainer)
    for again in (False, True):
        if again:
            _draw()
        drawn = random_hashes()
        trainer.evaluate()
        seen.random.append((drawn, random_hashes()))
        if not again:
            seen.after = loop_state(trainer)
    put_back()


def _draw() -> None:
    """Use a random number of each generator: what is set to a seed afterwards shows."""
    import numpy
    import torch

    random.random()
    numpy.random.random()
    torch.rand(1)
    if torch.cuda.is_initialized():
        torch.rand(1, device="cuda")


@contextmanager
def _few_rows(pipeline: Pipeline) -> Iterator[None]:
    """The first batches of each evaluation dataset that can be cut, in the Trainer's hands."""
    trainer, whole = pipeline.trainer, pipeline.trainer.eval_dataset
    size = BATCHES * trainer.args.eval_batch_size

    def cut(data: Any) -> Any:
        small = not hasattr(data, "__len__") or len(data) <= size
        return data if small or not hasattr(data, "select") else data.select(range(size))

    trainer.eval_dataset = (
        {name: cut(data) for name, data in whole.items()} if isinstance(whole, dict) else cut(whole)
    )
    try:
        yield
    finally:
        trainer.eval_dataset = whole
