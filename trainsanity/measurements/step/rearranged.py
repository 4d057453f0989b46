"""The first micro-batch, asked again in other arrangements of its rows.

The user's own ``compute_loss`` is called without gradients and with every layer in eval mode, so
that dropout and batch statistics do not move it; the model itself stays in training mode, which is
what some Trainers look at.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.random_states import global_random_states, random_hashes, reseed
from trainsanity.isolation.snapshot import restored
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.owners import own_class

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 8
"""Rows that are asked alone: a sum over N rows is N times a mean, and 8 is far from 1."""


REDRAWN = 2
"""Draws beside the first: shares of mixup, of Beta(0.4, 0.4), are within a thousandth of 0 or 1 in
one of 13 draws, and three times in a row in one of two thousand runs."""


@dataclass
class Rearranged:
    """Losses of the first micro-batch in other arrangements; NaN for one that was not asked.

    Attributes:
        loss: of its rows as they came.
        redrawn: the same with other random numbers, if the user's own code draws some and it is
            another then: every layer is in eval mode.
        turned: of the same rows in another order.
        alone: of each of the first :data:`ROWS` rows by itself.
        together: of those rows as one batch.
        relabelled: norm of the change of the gradient when labels are exchanged among rows that
            differ in them, relative to the gradient.
        label: the labels' name in the batch.
        repeats: the labels are the input ids where they are counted: a loss may take its targets
            from either.
        eps: unit in the last place of the coarsest dtype in use.
        reason: why it was not asked; empty if it was.
        drawn: why other arrangements say nothing: other random numbers change the loss, too.
        seeded: random states that the loss leaves the same, whatever they were and in other steps.
    """

    loss: float = math.nan
    redrawn: float = math.nan
    turned: float = math.nan
    alone: list[float] = field(default_factory=list)
    together: float = math.nan
    relabelled: float = math.nan
    label: str = ""
    repeats: bool = False
    eps: float = math.nan
    reason: str = ""
    drawn: str = ""
    seeded: list[str] = field(default_factory=list)


def rearrange(
    trainer: Any,
    inputs: Any,
    gradient: Callable[[dict[str, Any]], Tensor],
    eps: float,
) -> Rearranged:
    """Ask the first micro-batch in other arrangements.

    Args:
        trainer: the user's, in the middle of its first step.
        inputs: what ``compute_loss`` was given for the first micro-batch.
        gradient: returns a sample of the gradient of a batch, in training mode, with the random
            numbers of the first micro-batch.
        eps: unit in the last place of the coarsest dtype in use.
    """
    found = Rearranged(eps=eps)
    size = rows_of(inputs)
    if size is None:
        found.reason = "the batch is no dictionary of tensors with a row for each example"
        return found
    if trainer.args.world_size > 1:
        found.reason = "the rows of one process alone are no step of several"
        return found
    try:
        with layers_in_eval(trainer), restored([trainer, trainer.state, trainer.control]):
            own = own_class(trainer) or getattr(trainer, "compute_loss_func", None)
            _ask_as_it_is(trainer, inputs, found, redraw=bool(own))
            order = None if found.drawn else turned(size)
            if order is not None:
                found.turned = _loss(trainer, picked(inputs, size, order))
                allowed = (MARGIN * eps + REDUCTIONS) * max(1.0, abs(found.loss))
                if not within(abs(found.turned - found.loss), allowed):
                    found.drawn = _drawn(trainer, inputs, found.loss)
            # A batch that brings its own count of items is a part of a mean, whatever its rows.
            if size > 1 and not found.drawn and "num_items_in_batch" not in inputs:
                _ask_alone(trainer, inputs, size, found)
        found.label = next((name for name in _label_names(trainer) if name in inputs), "")
        found.repeats = bool(found.label) and _repeats(inputs[found.label], inputs)
        others = exchanged(inputs[found.label]) if found.label else []
        if others:
            found.relabelled = _relabelled(inputs, found.label, others, gradient, eps)
    except Exception as error:
        found.reason = f"asked again it raised {type(error).__name__}: {first_line(error)}"
    return found


def _relabelled(
    inputs: Mapping[str, Any],
    label: str,
    others: list[Any],
    gradient: Callable[[dict[str, Any]], Tensor],
    eps: float,
) -> float:
    """Return the relative change of the gradient by the first labels that change it, if any do."""
    before, change = gradient(dict(inputs)).double(), math.nan
    norm = float(before.norm())
    for swapped in others if norm > 0 and math.isfinite(norm) else ():
        after = gradient({**inputs, label: swapped}).double()
        change = float((after - before).norm()) / norm
        if not within(change, MARGIN * eps + REDUCTIONS):
            break
    return change


def _ask_as_it_is(
    trainer: Any, inputs: Mapping[str, Any], found: Rearranged, *, redraw: bool
) -> None:
    """Ask the loss of the rows as they came, and whether other random numbers change it."""
    restore = global_random_states()
    found.loss = _loss(trainer, inputs)
    if redraw:
        restore()
        first, pull = _loss_and_pull(trainer, inputs)
        found.seeded = _seeded(trainer, inputs)
        if found.seeded:
            found.drawn = "the loss begins with the same random numbers each time"
            restore()
            return
        same = (MARGIN * found.eps + REDUCTIONS) * max(1.0, abs(first))
        for seed in range(REDRAWN):
            reseed(seed)
            again, other = _loss_and_pull(trainer, inputs)
            # A head that has learnt nothing gives all labels one loss, and other gradients.
            share = MARGIN * found.eps + REDUCTIONS
            apart = float((other - pull).norm()) > share * float(pull.norm())
            if abs(again - first) > same or apart:
                found.redrawn = again
                found.drawn = "the loss draws random numbers of its own, which other rows change"
                break
    restore()


def _seeded(trainer: Any, inputs: Mapping[str, Any]) -> list[str]:
    """Return the random states that are the same after the loss of two steps, and not before.

    A seed that is made of the step's number leaves others.
    """
    states, step = [], trainer.state.global_step
    for seed in range(2):
        reseed(seed)
        trainer.state.global_step = step + seed
        before = random_hashes()
        _loss(trainer, inputs)
        states.append((before, random_hashes()))
    trainer.state.global_step = step
    return set_alike(*states)


States = tuple[Mapping[str, str], Mapping[str, str]]
"""Hashes of the random states before and after something ran."""


def set_alike(one: States, other: States) -> list[str]:
    """Return the random states that are the same afterwards, and were not before."""
    return [n for n in one[1] if one[1][n] == other[1].get(n) and one[0][n] != other[0].get(n)]


def _drawn(trainer: Any, inputs: Mapping[str, Any], loss: float) -> str:
    """Return how the loss of the same rows changes with other random numbers, or nothing.

    A model may call a function of dropout, which knows nothing of eval mode.
    """
    import torch

    torch.manual_seed(0)
    again = _loss(trainer, inputs)
    if again == loss or math.isnan(again):
        return ""
    return f"the loss of the same rows is {loss:.6g} and then {again:.6g}: it is drawn"


def _loss_and_pull(trainer: Any, inputs: Mapping[str, Any]) -> tuple[float, Tensor]:
    """Return the loss and its gradient on the last trainable matrix, which the head has."""
    import torch

    # A bias has the sum over rows, which no exchange of labels changes.
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    last = next((p for p in reversed(trained) if p.dim() > 1), trained[-1])
    with torch.enable_grad(), trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model_wrapped, dict(inputs))
    (pull,) = torch.autograd.grad(loss, last, allow_unused=True)
    return float(loss.detach()), torch.zeros(1) if pull is None else pull.detach().double().cpu()


def _ask_alone(trainer: Any, inputs: Any, size: int, found: Rearranged) -> None:
    """Ask the first rows together and each alone; pairs whose sides lie in halves stay pairs."""
    for pairs in (False, True) if size % 2 == 0 else (False,):
        count = size // 2 if pairs else size
        some = list(range(min(count, ROWS)))
        both = [0, count] if pairs else [0]
        try:
            alone = [_loss(trainer, picked(inputs, size, [k + far for far in both])) for k in some]
        except (RuntimeError, ValueError, IndexError):  # half a pair is no batch
            if pairs:
                raise
            continue
        if len(alone) > 1:
            together = [k + far for far in both for k in some]
            found.together, found.alone = _loss(trainer, picked(inputs, size, together)), alone
        return


def rows_of(inputs: Any) -> int | None:
    """Return how many rows a batch has; None if its tensors do not agree on that."""
    import torch

    if not isinstance(inputs, Mapping):
        return None
    sizes = {len(value) for value in inputs.values() if torch.is_tensor(value) and value.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def turned(size: int) -> list[int] | None:
    """Return an order that keeps pairs together, whether they lie side by side or in halves.

    Each half is turned by half of itself, an even number of rows; None where there is no such
    order.
    """
    if size % 8 == 0:
        half, by = size // 2, size // 4
        return [(k + by) % half + start for start in (0, half) for k in range(half)]
    return None


def _repeats(labels: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether labels of tokens are the ids beside them, where they are counted."""
    import torch

    ids = inputs.get("input_ids")
    if not (torch.is_tensor(labels) and torch.is_tensor(ids)) or labels.shape != ids.shape:
        return False
    counted = labels != -100
    return bool((labels == ids)[counted].all())


def exchanged(labels: Any) -> list[Any]:
    """Return the labels in other orders of rows, each of which changes some.

    In reverse, turned by one, and the first one exchanged with the nearest that differs: a loss
    that only asks which rows have the same label, as one of triplets does, gives one or two of
    these what it gave before, and not all of them unless no two rows share a label.
    """
    import torch

    if not torch.is_tensor(labels) or not labels.dim() or len(labels) < 2:
        return []
    # Labels of tokens move only among those that are counted, or the mask would change, too.
    if labels.dim() == 2 and not labels.is_floating_point():
        counted = labels != -100
        if int(counted.sum()) < 2:
            return []
        swapped = labels.clone()
        swapped[counted] = labels[counted].flip(0)
        found = [swapped]
    else:
        found = [labels.flip(0), labels.roll(1, 0)]
        apart = (labels != labels[:1]).reshape(len(labels), -1).any(1).nonzero()
        if len(apart):
            order = torch.arange(len(labels), device=labels.device)
            order[0], order[apart[0, 0]] = apart[0, 0], 0
            found.append(labels[order])
    return [one for one in found if not bool((one == labels).all())]


def _label_names(trainer: Any) -> tuple[str, ...]:
    return (*(getattr(trainer, "label_names", None) or ()), "labels", "label", "label_ids")


def picked(inputs: Mapping[str, Any], size: int, order: list[int]) -> dict[str, Any]:
    """Return these rows of a batch; what has no row for each stays."""
    import torch

    return {
        name: value[torch.tensor(order, device=value.device)]
        if torch.is_tensor(value) and value.dim() and len(value) == size
        else value
        for name, value in inputs.items()
    }


def _loss(trainer: Any, inputs: Mapping[str, Any]) -> float:
    import torch

    with torch.no_grad(), trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model_wrapped, dict(inputs))
    return float(loss)


@contextlib.contextmanager
def layers_in_eval(trainer: Any) -> Iterator[None]:
    """Put every layer into eval mode, also of models that the Trainer keeps beside its own.

    The model itself stays in training mode.
    """
    import torch

    model = trainer.model_wrapped
    beside = [one for one in vars(trainer).values() if isinstance(one, torch.nn.Module)]
    flags = [(module, module.training) for one in (model, *beside) for module in one.modules()]
    roots = {id(model), id(trainer.model)}
    try:
        for module, _ in flags:
            module.training = id(module) in roots
        yield
    finally:
        for module, training in flags:
            module.training = training
