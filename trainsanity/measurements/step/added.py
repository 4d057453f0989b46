"""Losses that a model's own forward adds to the objective's, such as the balance of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.isolation.collectives import all_gather
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.output_again import output_again
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.measurements.step.training_mode import as_in_training

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

WEIGHTS = ("coef", "alpha", "weight", "lambda", "scale")
"""Words in the names of settings that a loss is multiplied by."""


def added_loss(
    pipeline: Pipeline,
    recording: Recording,
    micros: list[MicroStep],
    rest: float,
    allowed: float,
) -> tuple[str, float]:
    """Return which loss beside the formula's makes up the rest, with its weight, and its mean.

    The model's output has to name it (``aux_loss``, ``router_z_loss``), and a setting of the model
    has to be its weight: what merely happens to fit is none.
    """
    import torch

    sums: dict[str, float] = {}
    try:
        with as_in_training(pipeline, recording), torch.no_grad():
            for micro in micros:
                if not micro.inputs:  # another process has it
                    continue
                for name, value in _beside(output_again(pipeline, micro)):
                    sums[name] = sums.get(name, 0.0) + value / len(micros)
    except (RuntimeError, IndexError, TypeError, ValueError):  # a model that takes no other call
        sums = {}
    if pipeline.other_processes:
        parts = all_gather(sums)
        sums = {name: sum(part.get(name, 0.0) for part in parts) for name in parts[0]}
    for name, value in sums.items():
        for setting, weight in _weights(getattr(pipeline.model, "config", None)):
            if value and within(abs(weight * value - rest), allowed):
                return f"{weight:g} x {name} ({setting})" if setting else name, weight * value
    return "", 0.0


def same_for_all_rows(
    pipeline: Pipeline, recording: Recording, micro: MicroStep, rest: float, allowed: float
) -> str:
    """Return what the rest is if no row changes it: a penalty on the weights; else nothing.

    Each row's loss by itself, as it was asked in ``recording.rearranged``, is its formula's and
    that rest, whatever the row: AdaLoRA adds how far its factors are from orthogonal ones.
    """
    alone, labels = recording.rearranged.alone, micro.inputs.get("labels")
    if micro.items is None or labels is None or len(alone) < 2:
        return ""
    task = objective_of(pipeline)
    try:
        sizes = [len(task.targets(labels[k : k + 1])) for k in range(len(labels))]
    except (RuntimeError, IndexError, ValueError):
        return ""
    if sum(sizes) != len(micro.items.losses):
        return ""
    parts = micro.items.losses.split(sizes)[: len(alone)]
    means = [float(part.mean()) for part in parts]
    if within(max(means) - min(means), allowed):  # a factor would be the same for all, too
        return ""
    same = all(
        within(abs(own - mean - rest), allowed) for own, mean in zip(alone, means, strict=False)
    )
    return "a term that is the same for all rows" if same else ""


def _beside(output: Any) -> Iterator[tuple[str, float]]:
    """Yield the losses that an output has beside the one that is trained."""
    import torch

    for name, value in output.items() if isinstance(output, Mapping) else ():
        if "loss" in name and name != "loss" and torch.is_tensor(value) and value.numel() == 1:
            yield name, float(value)


def _weights(config: Any) -> Iterator[tuple[str, float]]:
    """Yield settings that may weigh a loss, those of parts of the model included, and 1."""
    yield "", 1.0
    stack = [config.to_dict()] if hasattr(config, "to_dict") else []
    while stack:
        for name, value in stack.pop().items():
            if isinstance(value, dict):
                stack.append(value)
            elif isinstance(value, float) and any(word in str(name) for word in WEIGHTS):
                yield str(name), value
