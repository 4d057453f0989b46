"""What the optimizer does to the weights: whom it holds, who moves, how many elements survive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Parameter:
    """One parameter during the recorded step.

    Attributes:
        name: in ``named_parameters()``.
        dtype: of the weight.
        trainable: ``requires_grad``.
        held: the optimizer has it.
        weight_decay: of its group; None if not held.
        is_norm_or_bias: belongs to a normalisation, or is a bias.
        has_gradient: ``grad`` was not None before the optimizer stepped.
        finite: all gradient elements are.
        elements: its size.
        with_gradient: elements whose gradient is not zero.
        moved: those of them that changed in a step at the peak learning rate.
        can_move: those of them that an update as large as the rate would change in this dtype.
        changed_frozen: the weight changed although it is not trainable.
    """

    name: str
    dtype: Any
    trainable: bool
    held: bool
    weight_decay: float | None
    is_norm_or_bias: bool
    has_gradient: bool
    finite: bool
    elements: int
    with_gradient: int = 0
    moved: int = 0
    can_move: int = 0
    changed_frozen: bool = False


@dataclass
class Update:
    """All parameters, and how the trial step was made.

    Attributes:
        parameters: in the model's order.
        optimizer: its class.
        rate: the learning rate of the trial step, the peak of the run.
        strangers: elements of tensors that the optimizer holds and the model does not have.
    """

    parameters: list[Parameter] = field(default_factory=list)
    optimizer: str = ""
    rate: float = float("nan")
    strangers: int = 0


def frozen_state(model: Any) -> dict[str, Any]:
    """Hashes of the weights that must not move."""
    from .state import hashes

    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    return dict(zip([name for name, _ in frozen], hashes(p for _, p in frozen), strict=True))


def before_step(model: Any, optimizer: Any) -> Update:
    """Read groups and gradients just before the optimizer steps."""
    inner = getattr(optimizer, "optimizer", optimizer)
    decay = {id(p): group.get("weight_decay", 0.0) for group in inner.param_groups
             for p in group["params"]}  # fmt: skip
    own = {id(p) for p in model.parameters()}
    norms = {
        f"{name}.{key}".lstrip(".")
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for key, _ in module.named_parameters(recurse=False)
    }
    return Update(
        parameters=[
            Parameter(
                name=name,
                dtype=p.dtype,
                trainable=p.requires_grad,
                held=id(p) in decay,
                weight_decay=decay.get(id(p)),
                is_norm_or_bias=name in norms or name.endswith("bias"),
                has_gradient=p.grad is not None,
                finite=p.grad is None or bool(p.grad.isfinite().all()),
                elements=p.numel(),
            )
            for name, p in model.named_parameters()
        ],
        optimizer=type(inner).__name__,
        strangers=sum(
            p.numel() for group in inner.param_groups for p in group["params"] if id(p) not in own
        ),
    )


def trial_step(update: Update, model: Any, optimizer: Any) -> None:
    """Step once more with the same gradients at the peak rate, count who moves, take it back.

    Warm-up starts at a rate of zero, so the recorded step itself moves nothing; whether an update
    survives the weights' dtype is asked at the largest one that the run will make.
    """
    import torch

    inner = getattr(optimizer, "optimizer", optimizer)
    rates = [group["lr"] for group in inner.param_groups]
    tensors = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in tensors.items() if p.grad is not None}
    try:
        for group in inner.param_groups:
            group["lr"] = group.get("initial_lr", group["lr"])
        update.rate = max(group["lr"] for group in inner.param_groups)
        inner.step()
        for seen in update.parameters:
            old = before.get(seen.name)
            if old is None or not seen.trainable:
                continue
            p = tensors[seen.name]
            touched = p.grad != 0
            seen.with_gradient = int(touched.sum())
            seen.moved = int(((p.detach() != old) & touched).sum())
            seen.can_move = int(((half_unit(old) <= update.rate) & touched).sum())
    finally:
        for group, rate in zip(inner.param_groups, rates, strict=True):
            group["lr"] = rate
        with torch.no_grad():
            for name, old in before.items():
                tensors[name].copy_(old)


def half_unit(weight: Tensor) -> Tensor:
    """Half a unit in the last place of each element, in float32: ``2^(e-1) eps / 2``.

    ``e`` is the exponent of ``|w| = m 2^e`` with m in [0.5, 1); a zero takes any update.
    """
    import torch

    _, exponent = torch.frexp(weight.float())
    eps = float(torch.finfo(weight.dtype).eps)
    unit = torch.ldexp(torch.full_like(exponent, eps / 4, dtype=torch.float32), exponent)
    return torch.where(weight == 0, torch.zeros_like(unit), unit)
