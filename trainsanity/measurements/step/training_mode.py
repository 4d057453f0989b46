"""The model as the first step had it: mode, hooks, weights and mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trainsanity.isolation.host_memory import to_device
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.model.raiser import gathered
from trainsanity.measurements.step.checkpointing import checkpointed_in
from trainsanity.measurements.step.hooks import hooked

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline


@contextmanager
def as_in_training(pipeline: Pipeline, recording: Recording) -> Iterator[None]:
    """The model as the first step had it, but for gradient checkpointing, which is off.

    It has the hooks that were there in the step alone, as NEFTune's noise is, and the weights that
    the user's own code wrote before it.
    """
    model, begun = pipeline.model, recording.begun_with
    with (
        preserved(pipeline, weights=bool(begun)),
        quiet(pipeline),
        checkpointed_in(model, []),
        hooked(recording.hooks),
        gathered(model),
    ):
        align_special_tokens(pipeline)
        to_device([values for _, values in begun], [parameter for parameter, _ in begun])
        model.train()
        yield


@contextmanager
def autocast(pipeline: Pipeline) -> Iterator[None]:
    """The Trainer's mixed precision, or what a script's own loop called its model under."""
    if pipeline.trainer is None:
        with captured_autocast(pipeline):
            yield
    else:
        with pipeline.trainer.accelerator.autocast():
            yield


@contextmanager
def captured_autocast(pipeline: Pipeline) -> Iterator[None]:
    """Run the block under the autocast that a script's own loop called its model under."""
    import torch

    captured = pipeline.captured
    calls = [] if captured is None else [one.call for one in captured.first.passes if one.call]
    if not calls or calls[0].autocast is None:
        yield
        return
    device, dtype = calls[0].autocast
    with torch.autocast(device, dtype):
        yield
