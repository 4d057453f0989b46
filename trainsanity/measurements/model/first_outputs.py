"""The model's outputs for the first micro-batch as it lies, whatever its rows are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import logits_of
from trainsanity.forwards import token_model
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import as_trained, without_labels
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class FirstOutputs:
    """How many of the outputs are numbers.

    Attributes:
        no_numbers: those that are NaN or infinite; minus infinity marks what cannot occur.
        outputs: all of them.
    """

    no_numbers: int
    outputs: int


@measurement(Cost.FORWARD)
def first_outputs(pipeline: Pipeline, batch: Batch) -> FirstOutputs:
    """Run the first micro-batch through the model: packed rows, or the tokens that a loss makes.

    Raises:
        Skip: the model does not take the batch as it is, or shows no logits.
    """
    import torch

    inputs: dict[str, Any] = without_labels(batch.micro_batches[0].model_inputs)
    with as_trained(pipeline):
        try:
            output = token_model(pipeline.model)(**inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the loss makes of the batch what the model is given
            raise Skip(f"the model does not take the batch as it is: {first_line(error)}") from None
    logits = logits_of(output)
    if logits is None or not torch.is_tensor(logits):
        raise Skip("the model returns no logits")
    bad = int((logits.isnan() | (logits == math.inf)).sum())
    return FirstOutputs(bad, logits.numel())
