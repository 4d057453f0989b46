"""Rounding that a fused loss and the reference gradient do not share.

A fused kernel makes the loss of hidden states and the head's weights, and its gradient with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.measurements.step.bounds import added_in_parts

if TYPE_CHECKING:
    from trainsanity.measurements.step.steps import MicroStep
    from trainsanity.pipeline import Pipeline


def half_a_unit(micro: MicroStep) -> float:
    """Return half a unit in the last place of the logits' dtype, relative.

    The reference has residuals divided by the number of items in that dtype, the kernel divides
    what it has made of them.  Targets whose probability is next to 0 have one residual in common,
    so that its rounding is common to all gradients.
    """
    import torch

    return 0.0 if micro.items is None else float(torch.finfo(micro.items.dtype).eps) / 2


def added_by_chunks(
    pipeline: Pipeline, head_name: str, rows: int, dtypes: Mapping[str, Any]
) -> dict[str, float]:
    """Return the rounding of a head's gradient that is added up chunk by chunk, by parameter.

    A kernel that keeps no more logits at a time than there are hidden states has as many chunks as
    the vocabulary is wider than these, and at most one for each row of them.  It adds what each
    gives to a gradient of the weights' dtype; what is tied to the head has the same.

    Args:
        pipeline: with the model.
        head_name: of its head; empty if there is none.
        rows: of a micro-batch's hidden states that count.
        dtypes: of the gradients, by parameter.
    """
    if not head_name:
        return {}
    head = getattr(pipeline.model.get_submodule(head_name), "weight", None)
    if head is None or head.dim() != 2:
        return {}
    wide, deep = head.shape
    parts = min(-(-wide // deep), rows)
    return {
        name: added_in_parts(dtypes[name], parts)
        for name, parameter in pipeline.model.named_parameters()
        if parameter is head and parameter.requires_grad and parts > 1
    }
