"""Calls of language models, watched while the user's own loss makes them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.time_limit import deferred

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Pass:
    """One call of a model inside the loss.

    Attributes:
        module: the model, without the wrapper of a distributed run.
        ids: the token ids, ``[B, L]`` on the CPU.
        logps: log-probability of each token after the first, ``[B, L - 1]`` float32 on the CPU.
        graded: whether a gradient flows back into it.
        root: what the model returned, with its gradient; None unless it was asked for.
        live: the log-probabilities as a function of it, where they were computed.
    """

    module: Any
    ids: Tensor
    logps: Tensor
    graded: bool
    root: Any = None
    live: Any = None


@dataclass
class Gap:
    """How far two sets of log-probabilities of the same tokens lie apart.

    Attributes:
        size: root mean square over tokens; NaN if nothing was compared.
        total: the largest sum over a row, which is an implicit reward over beta.
        scale: root mean square of the log-probabilities themselves.
        tokens: how many were compared.
    """

    size: float = math.nan
    total: float = math.nan
    scale: float = math.nan
    tokens: int = 0


def inner(model: Any) -> Any:
    """Return the model inside the wrappers of a distributed or compiled run."""
    while True:
        wrapped = getattr(model, "_orig_mod", None)
        if wrapped is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            wrapped = model.module
        if wrapped is None:
            return model
        model = wrapped


@contextlib.contextmanager
def passes_seen(*, live: bool = False) -> Iterator[list[Pass]]:
    """Watch every outermost call of a module that is given token ids and returns predictions.

    Args:
        live: whether to keep what it returned, too, for gradients with respect to that.
    """
    import torch
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    seen: list[Pass] = []
    open_calls: list[int] = []

    def before(module: Any, _inputs: Any) -> None:
        open_calls.append(id(module))

    def after(module: Any, inputs: Any, named: Any, output: Any) -> None:
        # A call that raised left its mark behind.
        while open_calls and open_calls.pop() != id(module):
            pass
        if open_calls:
            return
        ids = named.get("input_ids", next(iter(inputs), None))
        if not torch.is_tensor(ids) or ids.dim() != 2 or ids.is_floating_point():
            return
        root = _first_float(output)
        values = _log_probabilities(root.detach() if torch.is_tensor(root) else root, ids)
        if values is not None:
            graded = torch.is_grad_enabled() and root.requires_grad
            one = Pass(inner(module), ids.detach().cpu(), values.cpu(), graded)
            if live:
                one.root, one.live = root, _log_probabilities(root, ids)
            seen.append(one)

    handles: list[Any] = []
    try:
        with deferred():
            handles += [
                register_module_forward_pre_hook(before),
                register_module_forward_hook(after, with_kwargs=True),
            ]
        yield seen
    finally:
        with deferred():
            for handle in handles:
                handle.remove()


def _first_float(output: Any) -> Any:
    for name in ("log_probs", "logits"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if value is not None:
            return value
    return output[0] if isinstance(output, tuple | list) else output


def _log_probabilities(values: Any, ids: Tensor) -> Tensor | None:
    """Return log-probabilities of the tokens after the first, from what the model returned."""
    import torch

    if not torch.is_tensor(values) or not values.is_floating_point():
        return None
    if values.dim() == 2 and values.shape[0] == len(ids):  # TRL's fused head
        width = ids.shape[1] - 1
        return values[:, -width:].float() if values.shape[1] >= width else None
    if values.dim() != 3 or values.shape[0] != len(ids):
        return None
    values = values[:, -ids.shape[1] :]
    if values.shape[1] != ids.shape[1]:
        return None
    rows = [
        logits[:-1].float().log_softmax(-1).gather(-1, row[1:, None].to(logits.device))[:, 0]
        for logits, row in zip(values, ids, strict=True)
    ]
    return torch.stack(rows)


def gap_between(pairs: list[tuple[Tensor, Tensor]]) -> Gap:
    """Compare log-probabilities of the same tokens, given as pairs of tensors."""
    import torch

    if not pairs:
        return Gap()
    apart = torch.cat([(a - b).flatten() for a, b in pairs]).double()
    # Masked positions are exactly zero in both, and count for nothing.
    scale = torch.cat([b.flatten() for _, b in pairs]).double()
    counted = scale != 0
    if not bool(counted.any()):
        return Gap()
    return Gap(
        float(apart[counted].square().mean().sqrt()),
        max(float((a - b).sum(-1).abs().max()) for a, b in pairs),
        float(scale[counted].square().mean().sqrt()),
        int(counted.sum()),
    )
