"""Train a few steps with evaluations in the middle, and the same steps without."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.random_states import global_random_states, random_hashes
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.runs.trace import (
    Plan,
    Trace,
    loop_state,
    max_weight_difference,
    plan_of,
    settings,
    trace,
)
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BATCHES = 4
"""Batches of evaluation data: the first ones already show what an evaluation changes."""


@dataclass
class Evaluated:
    """A run with two evaluations in the middle, beside the same run without.

    Attributes:
        plan: the evaluations take place at its cut.
        straight: the run without evaluations.
        evaluated: the run with them; random states were restored after them.
        before, after: the :func:`.trace.loop_state` before and after the first evaluation, with an
            optimizer that is free of schedules as it evaluates.
        random: hashes of the random states before and after each evaluation.
        difference: the largest difference between the final weights of the two runs.
        noise: the same between two runs without evaluations.
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
        raise Skip("a custom training loop has no evaluate()")
    refuse_sharded(pipeline)
    plan = plan_of(pipeline)
    with scratch() as folder:
        straight, again = (
            trace(pipeline, plan, folder, between=lambda: _switch(pipeline.trainer, back=True))
            for _ in range(2)
        )
        # Measured before the evaluation, whose lasting changes would be taken for noise.
        noise = max_weight_difference(straight, again)
        seen = Evaluated(plan, straight, Trace(), noise=noise)
        with _few_rows(pipeline), _settings(pipeline.model):
            seen.evaluated = trace(
                pipeline, plan, folder, between=lambda: _evaluate(pipeline.trainer, seen)
            )
        seen.difference = max_weight_difference(straight, seen.evaluated)
    return seen


@contextmanager
def _settings(model: Any) -> Iterator[None]:
    """Restore plain attributes of modules, which the user's evaluation may change."""
    before = settings(model)
    try:
        yield
    finally:
        for _, module, attribute, value in before:
            setattr(module, attribute, value)


def _evaluate(trainer: Any, seen: Evaluated) -> None:
    """Evaluate twice, and record the state around both."""
    restore = global_random_states()
    _switch(trainer)
    seen.before = loop_state(trainer)
    for again in (False, True):
        if again:
            _draw()
        before = random_hashes()
        trainer.evaluate()
        seen.random.append((before, random_hashes()))
        if not again:
            seen.after = loop_state(trainer)
            # The evaluation itself has switched back, as the next step would.
            if seen.after["weights"] == seen.straight.moment.get("weights"):
                seen.after["weights"] = seen.before["weights"]
    _switch(trainer, back=True)
    restore()


def _switch(trainer: Any, back: bool = False) -> None:
    """Have an optimizer that is free of schedules put its weights to where it evaluates.

    Between training and evaluation such an optimizer moves the weights there and back, and rounds:
    so it does at the same place of every run.

    Args:
        trainer: calls ``eval()`` of such an optimizer when it evaluates, ``train()`` as it steps.
        back: and have it put them back, as at the beginning of a step.
    """
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    modes: list[Any] = [getattr(inner, name, None) for name in ("eval", "train")]
    if all(map(callable, modes)):
        for mode in modes if back else modes[:1]:
            mode()


def _draw() -> None:
    """Draw a number from each generator, so that an evaluation which sets a seed shows."""
    import numpy
    import torch

    random.random()
    numpy.random.random()
    torch.rand(1)
    if torch.cuda.is_initialized():
        torch.rand(1, device="cuda")


@contextmanager
def _few_rows(pipeline: Pipeline) -> Iterator[None]:
    """Cut each evaluation dataset to its first batches, where it can be cut."""
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
