"""Which values torch's loss functions are defined for, and which they are often given instead.

Each function here takes the arguments of one call and returns what does not fit, in words. What an
argument is, is told by its values (rows that sum to 1 are probabilities) and, where values alone
could be chance, by the operation that made it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.types import Severity

if TYPE_CHECKING:
    from torch import Tensor

Arguments = Mapping[str, Any]

ROUNDING = 1e-4
"""How far a row of float32 probabilities may be from a sum of 1: half a unit in the last place for
each of 150,000 terms would be 9e-3 in the worst case and 2e-5 if they fall at random."""

MOVED = ("View", "Reshape", "Unsafe", "Transpose", "Permute", "Squeeze", "Unsqueeze", "Clone")
CHOSEN = (
    "Slice",
    "Index",
    "Select",
    "Narrow",
    "ToCopy",
    "Contiguous",
    "Expand",
    "Cat",
    "TBackward",
)
"""Beginnings of the names of backward nodes that move or choose values and change none."""


@dataclass(frozen=True)
class Misfit:
    """An argument that the function is not defined for.

    Attributes:
        headline: what it was given, as a sentence.
        cause: the mistake that gives it.
        fix: what to write instead.
        severity: a warning where training can come right in spite of it.
        of_parts: it matters only where a step has several micro-batches or processes.
    """

    headline: str
    cause: str
    fix: str
    severity: Severity = Severity.FAILURE
    of_parts: bool = False


def cross_entropy(given: Arguments) -> Iterator[Misfit]:
    """Yield what cross entropy cannot use: outputs that are no logits, targets that are no shares.

    ``input`` is ``[C]``, ``[N, C]`` or ``[N, C, ...]``.
    """
    logits, target = given["input"], given["target"]
    dim = 1 if logits.dim() > 1 else 0
    classes = logits.shape[dim]
    if classes > 1:
        yield from _activated(logits, dim, classes)
        yield from _viewed(logits)
    if target.is_floating_point() and target.shape == logits.shape:
        yield from _shares(target.detach(), dim)
    weight, reduction = given.get("weight"), given.get("reduction", "mean")
    if weight is not None and reduction == "mean" and len(set(weight.tolist())) > 1:
        yield Misfit(
            "cross_entropy divides by the class weights of the targets in this micro-batch",
            "weight= with reduction='mean' is normalised per micro-batch and process, so that an "
            "accumulated step is a mean of means and not the mean of the whole batch",
            "take reduction='none' times the weights, and divide by the weights of the whole step",
            Severity.WARNING,
            of_parts=True,
        )


def nll_loss(given: Arguments) -> Iterator[Misfit]:
    """Yield an input that is no logarithm of probabilities."""
    yield from _no_logarithms("nll_loss", given["input"], 1 if given["input"].dim() > 1 else 0)


def kl_div(given: Arguments) -> Iterator[Misfit]:
    """Yield inputs and targets that are logarithms where they should not be, or the other way."""
    values, target = given["input"], given["target"].detach()
    yield from _no_logarithms("kl_div", values, -1)
    highest, lowest = _ends(target)
    if given.get("log_target"):
        if highest > _room(target):
            yield Misfit(
                f"kl_div(log_target=True) is given targets of up to {highest:.4g}",
                "the targets are probabilities, and not their logarithms",
                "leave log_target out, or give target.log()",
            )
    elif lowest < -_room(target):
        yield Misfit(
            f"kl_div is given targets down to {lowest:.4g}",
            "the targets are logits or logarithms, and it takes probabilities",
            "give log_target=True with logarithms of probabilities, or target.softmax(-1)",
        )
    if given.get("reduction", "mean") == "mean" and values.dim() > 1:
        yield Misfit(
            f"kl_div takes the mean over all {values.numel():,} elements",
            f"reduction='mean' is the divergence divided by the {values.shape[-1]:,} classes, too",
            "reduction='batchmean'",
            Severity.WARNING,
        )


def binary_cross_entropy_with_logits(given: Arguments) -> Iterator[Misfit]:
    """Yield probabilities given as logits, and targets outside of 0 and 1."""
    logits = given["input"]
    made = made_by(logits)
    if made in ("Sigmoid", "Softmax"):
        yield Misfit(
            f"binary_cross_entropy_with_logits is given outputs of a {made.lower()}",
            f"the {made.lower()} is taken twice: the loss takes one of its own",
            "give the loss what comes before it",
        )
    yield from _outside("binary_cross_entropy_with_logits", given["target"])


def binary_cross_entropy(given: Arguments) -> Iterator[Misfit]:
    """Yield targets outside of 0 and 1."""
    yield from _outside("binary_cross_entropy", given["target"])


def _signs(function: str) -> Callable[[Arguments], Iterator[Misfit]]:
    """Return what yields targets other than 1 and -1."""

    def judge(given: Arguments) -> Iterator[Misfit]:
        target = given["target"].detach()
        others = int(((target != 1) & (target != -1)).sum())
        if others:
            yield Misfit(
                f"{function} is given {others} of {target.numel()} targets that are neither 1 "
                f"nor -1",
                "the targets are classes 0 and 1, and the formula multiplies by 1 or -1",
                "2 * target - 1",
            )

    return judge


def triplet_margin_loss(given: Arguments) -> Iterator[Misfit]:
    """Yield triplets whose positive and negative are the same."""
    import torch

    positive, negative = given["positive"], given["negative"]
    if positive.shape == negative.shape and torch.equal(positive, negative):
        yield Misfit(
            "triplet_margin_loss is given the same values as positive and as negative",
            "both come from the same rows, so that the loss is its margin and moves nothing",
            "give it the outputs for the negatives",
        )


def ctc_loss(given: Arguments) -> Iterator[Misfit]:
    """Yield no logarithms, targets with the blank in them, and more targets than frames."""
    import torch

    log_probs, targets, blank = given["log_probs"], given["targets"], given.get("blank", 0)
    yield from _no_logarithms("ctc_loss", log_probs, -1)
    lengths = torch.as_tensor(given["target_lengths"]).reshape(-1).tolist()
    frames = torch.as_tensor(given["input_lengths"]).reshape(-1).tolist()
    rows = targets.detach().cpu()
    if rows.dim() == 1:
        rows = rows.split(lengths) if sum(lengths) == len(rows) else [rows]
    each = [row[:length] for row, length in zip(rows, lengths, strict=False)]
    blanks = sum(int((row == blank).sum()) for row in each)
    if blanks:
        yield Misfit(
            f"ctc_loss is given {blanks} targets that are its blank, {blank}",
            "the id of the blank is that of a letter: paths with it are read as pauses",
            "give the blank an id of its own (model.config.pad_token_id in transformers)",
        )
    # Between two equal letters a blank has to lie.
    needed = [len(row) + int((row[1:] == row[:-1]).sum()) for row in each]
    short = sum(need > have for need, have in zip(needed, frames, strict=False))
    if short:
        yield Misfit(
            f"{short} of {len(each)} rows have more targets than ctc_loss has frames for",
            "no path leads through them: their loss is infinite"
            + (", and zero_infinity makes it 0" if given.get("zero_infinity") else ""),
            "leave those rows out, or take a model that strides less",
            Severity.FAILURE if short == len(each) else Severity.WARNING,
        )


def over_the_batch(function: str, values: Tensor, dim: int | None, rows: int) -> Iterator[Misfit]:
    """Yield what is normalised over the rows of the batch, where each row is meant by itself.

    Args:
        function: its name.
        values: what it is given.
        dim: along which axis.
        rows: of a micro-batch; values of two or more views of each are a multiple of it.
    """
    wide = values.dim() == 2 and values.shape[0] != values.shape[1]
    several = rows > 1 and values.shape[0] in (rows, 2 * rows, 3 * rows, 4 * rows)
    # A matrix of weights may have its vectors in columns.
    if wide and several and dim in (0, -2) and not _is_weight(values):
        yield Misfit(
            f"{function} is taken of outputs of shape {list(values.shape)} along axis 0, which is "
            "that of the rows",
            "each row's values depend on the other rows of its batch",
            f"{function}(outputs, dim=-1)",
        )


def _is_weight(values: Tensor) -> bool:
    """Return whether values are a parameter, seen through nothing but moves."""
    node: Any = values.grad_fn
    for _ in range(16):
        if node is None or type(node).__name__ == "AccumulateGrad":
            return True
        if not type(node).__name__.startswith((*MOVED, *CHOSEN)) or not node.next_functions:
            return False
        node = node.next_functions[0][0]
    return False


JUDGES: dict[str, Callable[[Arguments], Iterator[Misfit]]] = {
    "cross_entropy": cross_entropy,
    "nll_loss": nll_loss,
    "kl_div": kl_div,
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "binary_cross_entropy": binary_cross_entropy,
    "cosine_embedding_loss": _signs("cosine_embedding_loss"),
    "margin_ranking_loss": _signs("margin_ranking_loss"),
    "hinge_embedding_loss": _signs("hinge_embedding_loss"),
    "soft_margin_loss": _signs("soft_margin_loss"),
    "triplet_margin_loss": triplet_margin_loss,
    "ctc_loss": ctc_loss,
}
"""By the function's name in ``torch.nn.functional``; its documentation is the source of each."""


def _activated(logits: Tensor, dim: int, classes: int) -> Iterator[Misfit]:
    """Yield outputs that an activation has brought into a range, with the least loss they allow."""
    made = made_by(logits)
    if _sum_to_one(logits, dim):
        kind, span = "probabilities", 1.0
    elif made == "Sigmoid":
        kind, span = "outputs of a sigmoid", 1.0
    elif made == "Tanh":
        kind, span = "outputs of a tanh", 2.0
    elif made == "Relu":
        yield Misfit(
            "cross_entropy is given outputs of a ReLU",
            "a ReLU behind the last layer: a class below 0 has no gradient any more",
            "leave it out",
            Severity.WARNING,
        )
        return
    else:
        return
    least = math.log1p((classes - 1) * math.exp(-span))
    twice = "softmax is taken twice" if kind == "probabilities" else f"{kind} are no logits"
    yield Misfit(
        f"cross_entropy is given {kind}: with {classes} classes the loss cannot fall below "
        f"{least:.4f}",
        f"{twice}: cross_entropy takes a softmax of its own",
        "give it what comes before, the raw logits",
    )


def _viewed(logits: Tensor) -> Iterator[Misfit]:
    """Yield outputs whose axes were exchanged by ``view``, which leaves the values where they are.

    A view keeps the shape that it was made of; one with the same lengths in another order, as
    ``[B, T, C]`` seen as ``[B, C, T]``, gives each position values of several others.
    """
    node: Any = logits.grad_fn
    before = getattr(node, "_saved_self_sym_sizes", None)
    if before is None or "View" not in type(node).__name__ or logits.dim() < 3:
        return
    before, now = [int(n) for n in before], list(logits.shape)
    if before != now and sorted(before) == sorted(now) and 1 not in now:
        yield Misfit(
            f"outputs of shape {before} are given to cross_entropy by a view of shape {now}",
            "view and reshape do not exchange axes: each position gets values of other positions",
            "outputs.transpose(1, 2)",
        )


def _shares(target: Tensor, dim: int) -> Iterator[Misfit]:
    """Yield targets that are no distribution over the classes."""
    sums = target.float().sum(dim)
    others = int(((sums - 1).abs() > max(ROUNDING, _room(target))).sum())
    if not others and float(target.min()) >= -_room(target):
        return
    ones = bool(((target == 0) | (target == 1)).all())
    yield Misfit(
        f"{others} of {sums.numel()} rows of targets given to cross_entropy do not sum to 1",
        "several classes of a row can hold, and a softmax lets them compete: a row without any "
        "weighs nothing"
        if ones
        else "targets that are no shares of classes: each row weighs as much as it sums to",
        "binary_cross_entropy_with_logits" if ones else "divide each row by its sum",
        Severity.FAILURE if ones else Severity.WARNING,
    )


def _no_logarithms(function: str, values: Tensor, dim: int) -> Iterator[Misfit]:
    """Yield values that are no logarithms of probabilities: those are never above 0."""
    highest, _ = _ends(values)
    if not highest > _room(values):
        return
    probabilities = _sum_to_one(values, dim)
    yield Misfit(
        f"{function} is given {'probabilities' if probabilities else 'values'} of up to "
        f"{highest:.4g} where it takes their logarithms",
        "softmax in place of log_softmax" if probabilities else "log_softmax is left out",
        "log_softmax(logits, dim)",
    )


def _outside(function: str, target: Tensor) -> Iterator[Misfit]:
    highest, lowest = _ends(target)
    if lowest < 0 or highest > 1:
        yield Misfit(
            f"{function} is given targets from {lowest:.4g} to {highest:.4g}",
            "targets of yes/no questions lie between 0 and 1; beyond that the loss has no minimum",
            "leave ignored labels out by a mask, and give classes as rows of zeros and ones",
        )


def _sum_to_one(values: Tensor, dim: int) -> bool:
    """Return whether values are probabilities along an axis: none below 0, each row with sum 1."""
    import torch

    values = values.detach()
    if not values.numel() or values.shape[dim] < 2 or not float(values.min()) >= 0:
        return False
    sums = values.sum(dim, dtype=torch.float32)
    return float((sums - 1).abs().max()) <= max(ROUNDING, _room(values))


def _ends(values: Tensor) -> tuple[float, float]:
    values = values.detach()
    if not values.numel():
        return math.nan, math.nan
    return float(values.max()), float(values.min())


def _room(values: Tensor) -> float:
    """Return how far rounding brings a value of the size of 1, with room for a few operations."""
    import torch

    return 4 * float(torch.finfo(values.dtype).eps) if values.is_floating_point() else 0.0


def made_by(values: Tensor) -> str:
    """Return the activation whose values these are: Softmax, Sigmoid, Tanh, Relu; else nothing.

    The node of the autograd graph tells, behind those that move or choose values only.
    """
    name = type(maker(values.grad_fn)).__name__
    kinds = ("Softmax", "Sigmoid", "Tanh", "Relu")
    return next((kind for kind in kinds if name.startswith(kind)), "")


def maker(node: Any) -> Any:
    """Return the node of the autograd graph behind those that move or choose values only.

    What is joined of values that different operations made is made by none of them.
    """
    for _ in range(16):  # moves in a row; more than any code has between output and loss
        if not type(node).__name__.startswith((*MOVED, *CHOSEN)):
            return node
        children = [one for one, _ in node.next_functions if one is not None]
        if not children:
            return node
        if len(children) > 1 and len({type(maker(one)).__name__ for one in children}) > 1:
            return node
        node = children[0]
    return None
