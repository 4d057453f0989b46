"""What the loss of a step is called, by who shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def logs_a_loss(pipeline: Pipeline, loss: float) -> str:
    """Return the beginning of a sentence that goes on with the step."""
    if pipeline.captured is not None:  # what a script prints is not seen
        return f"the loop sends losses backward that add up to {loss:.4f} in"
    who = "the loop" if pipeline.trainer is None else "the Trainer"
    return f"{who} logs a loss of {loss:.4f} for"
