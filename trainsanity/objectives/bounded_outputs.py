"""Outputs that cannot reach their targets, and ratios of outputs that are no shares.

A range is told by the operation that made the outputs: a sigmoid ends at 1, a cosine as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.loss_arguments import CHOSEN, MOVED, Misfit, made_by, maker
from trainsanity.types import Severity

if TYPE_CHECKING:
    from torch import Tensor

BOUNDS = {
    "Softmax": (0.0, 1.0, "a softmax"),
    "Sigmoid": (0.0, 1.0, "a sigmoid"),
    "Tanh": (-1.0, 1.0, "a tanh"),
    "Relu": (0.0, math.inf, "a ReLU"),
    "Cosine": (-1.0, 1.0, "a cosine"),
}
"""The values that each can have, and what it is called."""

ROUNDED = 1e-3
"""How far a target may lie beyond the end of a range: scores divided in float16 (5e-4)."""

FEW = 0.1
"""Share of targets out of reach up to which they may be outliers in the data.  A choice: a few
scores above the scale are cut off by a bounded output, and the rest is learnt."""

LINEAR = ("AddBackward", "SubBackward", "NegBackward", "SumBackward", "MeanBackward", "MulBackward",
          "DivBackward", "Upsample", *MOVED, *CHOSEN)  # fmt: skip
"""Backward nodes of sums, means, scalings and interpolations, which keep a value as it was."""

RAW = ("Convolution", "Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Mkldnn", "Cudnn")
"""Backward nodes of a layer's own outputs, which no activation has brought into a range."""

NODES = 64
"""Nodes between a ratio and the outputs that it is made of; a Dice loss has about ten."""


@dataclass
class Cosines:
    """The autograd nodes, by number, that made cosines, and those that made vectors of length 1."""

    cosines: set[int] = field(default_factory=set)
    units: set[int] = field(default_factory=set)

    def note(self, made: set[int], result: Any) -> None:
        """Remember who made a result, if a gradient will come to it."""
        if getattr(result, "grad_fn", None) is not None:
            made.add(_number(result.grad_fn))

    def made(self, values: Tensor) -> bool:
        """Return whether these values are cosines."""
        node = maker(values.grad_fn)
        if node is None:
            return False
        if _number(node) in self.cosines:
            return True
        if type(node).__name__.startswith("SumBackward"):
            node = maker(node.next_functions[0][0])
            if not type(node).__name__.startswith("MulBackward"):
                return False
        elif not type(node).__name__.startswith(("MmBackward", "BmmBackward")):
            return False
        sides = [maker(one) for one, _ in node.next_functions]
        return all(one is not None and _number(one) in self.units for one in sides)


def _number(node: Any) -> int:
    return int(node._sequence_nr())


def regression(function: str) -> Callable[[Mapping[str, Any], Cosines], Iterator[Misfit]]:
    """Return what yields targets that the outputs cannot reach."""

    def judge(given: Mapping[str, Any], cosines: Cosines) -> Iterator[Misfit]:
        outputs, target = given["input"], given["target"]
        if target.requires_grad and not outputs.requires_grad:
            outputs, target = target, outputs
        if given.get("reduction") == "none" or target.requires_grad or not target.numel():
            return  # what is masked afterwards may be anything
        kind = "Cosine" if cosines.made(outputs) else made_by(outputs)
        if kind not in BOUNDS:
            return
        low, high, name = BOUNDS[kind]
        target = target.detach().double()
        beyond = (target < low - ROUNDED) | (target > high + ROUNDED)
        count = int(beyond.sum())
        if not count:
            return
        least = float((target - target.clamp(low, high)).square().mean())
        few = count <= FEW * target.numel() or kind == "Relu"
        yield Misfit(
            f"{count} of {target.numel()} targets of {function} lie outside of what the outputs "
            f"can be: targets from {float(target.min()):.4g} to {float(target.max()):.4g}, outputs "
            f"of {name} between {low:g} and {high:g}; the squared error cannot fall below "
            f"{least:.4g}",
            "targets that no output reaches: all of them ask for the same output, the end of the "
            "range",
            f"scale the targets to {low:g} ... {high:g}, or leave the activation out"
            if math.isfinite(high)
            else "leave the ReLU behind the last layer out",
            Severity.WARNING if few else Severity.FAILURE,
        )

    return judge


REGRESSIONS = {
    name: regression(name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
}
"""By the function's name in ``torch.nn.functional``."""


def overlap(above: Any, below: Any) -> Iterator[Misfit]:
    """Yield a ratio of overlap (Dice, IoU, Tversky) that is made of outputs without an activation.

    Above the line outputs times a mask of zeros and ones, below it a sum of the same outputs.
    """
    if getattr(above, "grad_fn", None) is None or getattr(below, "grad_fn", None) is None:
        return
    shared = _outputs(above.grad_fn)
    if not any(shared.values()):
        return
    summed = _outputs(below.grad_fn)
    if any(masked and one in summed for one, masked in shared.items()):
        yield Misfit(
            "an overlap (Dice, IoU) is computed of logits: a layer's outputs times a mask over a "
            "sum of the same outputs",
            "logits are no probabilities: without a sigmoid or softmax the ratio has no bound, the "
            "loss can become negative, and larger logits lower it for ever",
            "logits.sigmoid() (or softmax over the classes) before the overlap is taken",
        )


def _outputs(node: Any) -> dict[int, bool]:
    """Return the layers' outputs that a value is a sum of, each with whether it is one of a mask.

    That is, whether they were multiplied by a mask and added up then.
    """
    found: dict[int, bool] = {}
    waiting, looked = [(node, False, False)], 0
    while waiting and looked < NODES:
        node, added, masked = waiting.pop()
        looked += 1
        name = type(node).__name__
        if name.startswith(RAW):
            number = _number(node)
            found[number] = found.get(number, False) or masked
            continue
        if not name.startswith(LINEAR):
            continue
        children = [one for one, _ in node.next_functions if one is not None]
        if name.startswith(("MulBackward", "DivBackward")) and len(children) != 1:
            continue
        added = added or name.startswith(("SumBackward", "MeanBackward"))
        masked = masked or (added and name.startswith("MulBackward") and _by_mask(node))
        waiting += [(one, added, masked) for one in children]
    return found


def _by_mask(node: Any) -> bool:
    """Return whether a product's constant side is a mask of zeros and ones."""
    for side in ("_saved_other", "_saved_self"):
        value = getattr(node, side, None)
        if value is not None and value.dim() and value.numel() > 1:
            value = value.detach()
            return bool(((value == 0) | (value == 1)).all() and value.min() < value.max())
    return False
