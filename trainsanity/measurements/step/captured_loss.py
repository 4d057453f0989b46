"""The loss of a script's own training loop: the model's own, or a formula that was seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.random_states import set_torch_states
from trainsanity.measurements.step.hooks import ModuleState
from trainsanity.measurements.step.owners import of_a_library

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.captured import Backward, Captured

SAME = 1e-4
"""Relative: how far apart two quotients of equal losses may lie in float32.  Chosen: each of the
two was rounded a few times, and losses of different formulas lie further apart on every batch."""

AVERAGING = ("mean", "batchmean")
"""Reductions whose sum over micro-batches has to be divided by their number."""


def trained_loss(captured: Captured) -> tuple[str, float]:
    """Return which loss was sent backward, and by what it was multiplied.

    The quotient of the two has to be one number in all recorded passes.

    Returns:
        ``model_loss``, ``formula_loss`` or an empty string, and the factor.
    """
    for kind in ("model_loss", "formula_loss"):
        passes = [one for step in captured.steps for one in step.passes]
        found = [_ratio(one, kind) for one in passes]
        if not found or not all(map(math.isfinite, found)) or not all(found):
            continue
        if kind == "formula_loss" and not all(map(_averages, passes)):
            continue
        allowed = max(SAME, *(4 * _eps(one.dtype) for one in passes))
        middle = sum(found) / len(found)
        if max(found) - min(found) > allowed * abs(middle):
            continue
        # One number alone would fit any loss.
        if len(found) > 1 or abs(middle - 1) <= allowed:
            return kind, middle
    return "", math.nan


def _ratio(made: Backward, kind: str) -> float:
    own = getattr(made, kind)
    return made.value / own if own and made.call is not None else math.nan


def _averages(made: Backward) -> bool:
    formula = made.formula
    return formula is not None and formula.rest.get("reduction", "mean") in AVERAGING


def _eps(dtype: Any) -> float:
    import torch

    return float(torch.finfo(dtype).eps)


def loss_of(made: Backward, kind: str, output: Any) -> Tensor:
    """Return the loss that was sent backward, of what the model's call returns when made again."""
    assert made.call is not None
    if kind == "model_loss":
        key = made.call.loss
        return output if key == "" else _at(output, key)  # type: ignore[no-any-return]
    formula = made.formula
    assert formula is not None
    given = output if formula.output is None else _at(output, formula.output)
    value: Tensor = formula.function(given.reshape(formula.shape), formula.target, **formula.rest)
    return value


def _at(output: Any, key: Any) -> Any:
    if isinstance(key, str) and not isinstance(output, dict):
        return getattr(output, key)
    return output[key]


def call_again(made: Backward) -> Any:
    """Run the model's call again, as it was made, and return what it returns."""
    import torch

    call = made.call
    assert call is not None
    set_torch_states(*call.random_state)
    ModuleState(call.buffers, [], None).put_back()
    if call.autocast is None:
        return call.module(*call.args, **call.kwargs)
    device, dtype = call.autocast
    with torch.autocast(device, dtype):
        return call.module(*call.args, **call.kwargs)


def owner_in_captured(pipeline: Pipeline) -> str:
    """Return whose code computes the loss of a script's own loop; empty if a library's model."""
    captured = pipeline.captured
    assert captured is not None
    kind, _ = trained_loss(captured)
    forward = type(getattr(pipeline.model, "get_base_model", lambda: pipeline.model)()).forward
    if kind == "model_loss":
        return "" if of_a_library(forward) else f"{forward.__module__}.{forward.__qualname__}"
    return pipeline.id
