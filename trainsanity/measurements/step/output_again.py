"""What the model makes of a recorded micro-batch, asked again with its own random numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.fields import logits_of
from trainsanity.isolation.fsdp import beside_model
from trainsanity.isolation.random_states import reseed, set_torch_states, torch_states
from trainsanity.measurements.model.forward import outputs_without, predicting
from trainsanity.measurements.model.head import Pooled
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.measurements.step.training_mode import as_in_training, autocast
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

SEVERAL_PASSES = (
    "the training step runs the model several times for a micro-batch, each time with random "
    "numbers of its own: one pass over all of its rows draws others"
)


def logits_again(pipeline: Pipeline, micro: MicroStep) -> Tensor:
    """Return the logits of a micro-batch, with the random numbers that it had.

    Raises:
        Skip: the model returns none.
    """
    logits: Tensor | None = logits_of(output_again(pipeline, micro))
    if logits is None:
        raise Skip("the model returns no logits, also without labels")
    return logits


def output_again(pipeline: Pipeline, micro: MicroStep) -> Any:
    """Return what the model makes of a micro-batch without its labels, by the same numbers."""
    set_torch_states(*micro.random_state)
    if micro.state is not None:
        micro.state.put_back()
    inputs = beside_model(pipeline, predicting(pipeline.model, micro.inputs))
    labelled = beside_model(pipeline, micro.inputs)
    with autocast(pipeline):
        return outputs_without(pipeline.model, inputs, labelled)


def _draws(pipeline: Pipeline, micro: MicroStep, logits: Tensor) -> bool:
    """Return whether the model makes other logits of other random numbers, as with dropout."""
    import torch

    state = torch_states()
    try:
        reseed(0)
        other = replace(micro, random_state=torch_states())
    finally:
        set_torch_states(*state)
    return not torch.equal(logits, logits_again(pipeline, other))


def fill_items(pipeline: Pipeline, recording: Recording) -> None:
    """Run the first step's micro-batches again for the items that a fused loss did not show."""
    import torch

    hidden = [
        m
        for m in recording.first.micro_steps
        if m.items is None and m.error is None and "labels" in m.inputs
    ]
    if not hidden or not objective_of(pipeline).known:
        return
    with as_in_training(pipeline, recording), torch.no_grad():
        for micro in hidden:
            try:
                logits = logits_again(pipeline, micro)
            except Skip:
                return
            if micro.passes > 1 and _draws(pipeline, micro, logits):
                recording.not_comparable = SEVERAL_PASSES
                return
            seen = Pooled(logits, None, None)
            micro.fused = True
            micro.sort_items(objective_of(pipeline), seen, micro.inputs["labels"])
