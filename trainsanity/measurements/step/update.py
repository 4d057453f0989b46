"""Effect of the optimizer on the weights: which it holds, which move, which elements survive."""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.shards import added, is_sharded, local, local_as
from trainsanity.maths.norms import norm_of
from trainsanity.measurements.step.directions import Direction, Trial, direction_of

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.followed import Followed
    from trainsanity.measurements.step.later import Thawed
    from trainsanity.measurements.step.outside import Outside


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
        finite: all gradient elements are, in every recorded step.
        elements: its size.
        largest: of its gradient's elements, by size; 0 without a gradient.
        with_gradient: elements whose gradient is not zero.
        moved: those of them that changed in a step at the peak learning rate.
        can_move: those of them that an update as large as the rate would change in this dtype.
        answers: whether it moves where its gradient is as large as the largest of all, asked
            where its own moved nothing.
        changed_frozen: the weight changed although it is not trainable.
        follows: it is frozen and a moving average of a trained one.
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
    largest: float = 0.0
    with_gradient: int = 0
    moved: int = 0
    can_move: int = 0
    answers: bool = False
    changed_frozen: bool = False
    follows: bool = False


@dataclass
class Update:
    """All parameters, and how the trial steps were made.

    Attributes:
        parameters: in the model's order.
        optimizer: its class.
        rate: the learning rate of the trial step at the peak of the run.
        unchosen: each of its groups has the weight decay that its class has by default.
        strangers: elements of tensors that the optimizer holds, the model does not have and the
            step does not use: parameters of a loss have a gradient.
        apart: the same, with those that the step uses.
        outside: parameters that the step's loss is made with, and that nobody holds.
        thawed: what a callback makes trainable later, and the optimizer does not hold.
        trials: in the order of their rates; the last one is the peak's.
        no_trial: why none was made.
    """

    parameters: list[Parameter] = field(default_factory=list)
    optimizer: str = ""
    unchosen: bool = False
    rate: float = float("nan")
    strangers: int = 0
    apart: int = 0
    outside: list[Outside] = field(default_factory=list)
    thawed: Thawed | None = None
    trials: list[Trial] = field(default_factory=list)
    no_trial: str = "the optimizer takes no step without evaluating its loss"


def frozen_state(model: Any) -> dict[str, Any]:
    """Hashes of the weights that must not move."""
    from trainsanity.isolation.hashing import hashes

    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    return dict(zip([name for name, _ in frozen], hashes(p for _, p in frozen), strict=True))


def _decays_by_default(optimizer: Any) -> bool:
    wanted = inspect.signature(type(optimizer).__init__).parameters.get("weight_decay")
    return wanted is not None and all(
        group.get("weight_decay") == wanted.default for group in optimizer.param_groups
    )


def rewritten(name: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether a parameter that was frozen before and after has other values.

    One that is frozen or thawed in between, by a ``train()`` or a callback, may be trained.
    """
    return name in before and name in after and before[name] != after[name]


def note_frozen(
    update: Update, model: Any, before: dict[str, Any], followed: Followed | None = None
) -> None:
    """Note which frozen weights have other values than before, and which follow trained ones."""
    now = frozen_state(model)
    for parameter in update.parameters:
        parameter.changed_frozen = rewritten(parameter.name, before, now)
    if followed is not None and any(one.changed_frozen for one in update.parameters):
        follow = followed.follow(model)
        for parameter in update.parameters:
            parameter.follows = parameter.changed_frozen and parameter.name in follow


def before_step(model: Any, optimizer: Any) -> Update:
    """Read groups and gradients just before the optimizer steps."""
    inner = getattr(optimizer, "optimizer", optimizer)
    decay = {id(p): group.get("weight_decay", 0.0) for group in inner.param_groups
             for p in group["params"]}  # fmt: skip
    own = {id(p) for p in model.parameters()}
    others = [p for group in inner.param_groups for p in group["params"] if id(p) not in own]
    small = norms_and_biases(model)
    finite = _finite([None if p.grad is None else local(p.grad) for p in model.parameters()])
    if any(is_sharded(p) for p in model.parameters()):  # a NaN may be in another's part
        finite = [all(column) for column in zip(*all_gather(finite), strict=True)]
    return Update(
        parameters=[
            Parameter(
                name=name,
                dtype=p.dtype,
                trainable=p.requires_grad,
                held=id(p) in decay,
                weight_decay=decay.get(id(p)),
                is_norm_or_bias=name in small,
                has_gradient=p.grad is not None,
                finite=fine,
                elements=p.numel(),
                largest=largest,
            )
            for (name, p), fine, largest in zip(
                model.named_parameters(), finite, _largest(model), strict=True
            )
        ],
        optimizer=type(inner).__name__,
        unchosen=_decays_by_default(inner),
        strangers=sum(p.numel() for p in others if p.grad is None),
        apart=sum(p.numel() for p in others),
    )


def norms_and_biases(model: Any) -> set[str]:
    """Return the names of the parameters of normalisations, and of all biases."""
    return {
        name
        for module_name, module in model.named_modules()
        for key, _ in module.named_parameters(recurse=False)
        if (name := f"{module_name}.{key}".lstrip(".")).endswith("bias")
        or "norm" in type(module).__name__.lower()
    }


def _largest(model: Any) -> list[float]:
    """Return the largest element of each parameter's gradient, with one wait for the device."""
    import torch

    gradients = [None if p.grad is None else local(p.grad).detach() for p in model.parameters()]
    there = [g for g in gradients if g is not None and g.numel()]
    if not there:
        return [0.0] * len(gradients)
    device = there[0].device
    sizes = torch.stack([torch.linalg.vector_norm(g, math.inf).float().to(device) for g in there])
    found = iter(sizes.tolist())
    return [next(found) if g is not None and g.numel() else 0.0 for g in gradients]


def _finite(gradients: list[Tensor | None]) -> list[bool]:
    """Return whether all elements of each gradient are finite, with one wait for the device.

    A norm is a number only if every element is one, and is read without writing a mask; one that is
    not may also have overflowed.
    """
    import torch

    norms = [norm_of(g.detach()) for g in gradients if g is not None]
    finite_norms = (
        iter(torch.stack([n.to(norms[0].device).float() for n in norms]).tolist())
        if norms
        else iter(())
    )
    return [
        gradient is None or math.isfinite(next(finite_norms)) or bool(gradient.isfinite().all())
        for gradient in gradients
    ]


def trial_steps(
    update: Update,
    model: Any,
    optimizer: Any,
    curve: Mapping[int, float] | None,
    warmup: int,
    *,
    at_peak: Callable[[], None] = lambda: None,
) -> None:
    """Apply trial steps at two rates of the run, count changed elements, undo.

    ``at_peak`` is called while the weights are those after the step at the peak.

    Warm-up starts at a rate of zero, so the recorded steps themselves move next to nothing.
    Whether an update survives the weights' dtype is asked at the largest one that the run will
    make, and in the middle of the warm-up, at its mean rate.
    """
    inner = getattr(optimizer, "optimizer", optimizer)
    if _wants_a_closure(inner):  # LBFGS evaluates the loss by itself: gradients are not enough
        return
    if all(p.grad is None for p in model.parameters()):
        update.no_trial = (
            "the gradients are gone when the optimizer has stepped: a hook clears them"
        )
        return
    peaks = [group.get("initial_lr", group["lr"]) for group in inner.param_groups]
    middle = max((k for k in curve or () if k <= warmup // 2), default=0)
    if middle and curve and peaks[0]:
        share = curve[middle] / peaks[0]
        update.trials.append(_trial(update, model, inner, [peak * share for peak in peaks], middle))
    trial = _trial(update, model, inner, peaks, None, stepped=at_peak)
    if trial.climbs():
        trial = replace(trial, directions=_first_directions(trial, model, inner, peaks))
    update.trials.append(trial)
    update.rate = update.trials[-1].rate
    unmoved = [seen for seen in update.parameters if seen.can_move and not seen.moved]
    if unmoved:
        _ask_louder(unmoved, max(p.largest for p in update.parameters), model, inner, peaks)


@contextmanager
def _taken_back(model: Any, inner: Any, rates: list[float]) -> Iterator[dict[str, Tensor]]:
    """Give the optimizer's groups these rates in the block, and put weights and rates back.

    Yields:
        the weights that have a gradient, as they were.
    """
    import torch

    configured = [group["lr"] for group in inner.param_groups]
    tensors = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in tensors.items() if p.grad is not None}
    try:
        for group, rate in zip(inner.param_groups, rates, strict=True):
            group["lr"] = rate
        yield before
    finally:
        for group, rate in zip(inner.param_groups, configured, strict=True):
            group["lr"] = rate
        with torch.no_grad():
            for name, old in before.items():
                tensors[name].copy_(old)


def _ask_louder(
    unmoved: list[Parameter], size: float, model: Any, inner: Any, rates: list[float]
) -> None:
    """Note which of these move where each element of their gradient has this size, then undo it.

    A gradient that is rounding, or next to it, moves nothing, and the optimizer is right.
    """
    import torch

    tensors = dict(model.named_parameters())
    own = {seen.name: tensors[seen.name].grad for seen in unmoved}
    with _taken_back(model, inner, rates) as before:
        try:
            for name, gradient in own.items():
                tensors[name].grad = gradient.sign() * size
            inner.step()
            changed = [
                local(tensors[seen.name].detach()) != local(before[seen.name]) for seen in unmoved
            ]
            counts = [[int(torch.count_nonzero(one))] for one in changed]
        finally:
            for name, gradient in own.items():
                tensors[name].grad = gradient
    sharded = [is_sharded(tensors[seen.name]) for seen in unmoved]
    for seen, (count,) in zip(unmoved, added(counts, sharded), strict=True):
        seen.answers = count > 0


def _trial(
    update: Update,
    model: Any,
    inner: Any,
    rates: list[float],
    step: int | None,
    *,
    stepped: Callable[[], None] = lambda: None,
) -> Trial:
    import torch

    tensors = dict(model.named_parameters())
    counts: list[Tensor] = []
    directions: dict[str, Direction] = {}
    decay = _decays(inner, rates)
    with _taken_back(model, inner, rates) as before:
        judged = [seen for seen in update.parameters if seen.trainable and seen.name in before]
        inner.step()
        for seen in judged:
            parameter = tensors[seen.name]
            directions[seen.name] = direction_of(
                parameter, before[seen.name], *decay.get(id(parameter), (0.0, 0.0))
            )
            p, old = local(parameter.detach()), local(before[seen.name])
            touched = local_as(parameter.grad, parameter) != 0
            # A weight that became NaN is lost, and has not learnt.
            moved = touched & (p != old) & p.isfinite()
            whom = (touched, moved, touched & can_move(old, max(rates)))
            counts.append(torch.stack([torch.count_nonzero(one) for one in whom]))
        stepped()  # what it calls of the user's may write to gradients
    shares: dict[str, tuple[int, int, int]] = {}
    # One wait for the device.
    rows = torch.stack([row.to(counts[0].device) for row in counts]).tolist() if counts else []
    rows = added(rows, [is_sharded(tensors[seen.name]) for seen in judged])
    for seen, (touching, moving, movable) in zip(judged, rows, strict=True):
        seen.with_gradient, seen.moved, seen.can_move = touching, moving, movable
        dtype = str(seen.dtype).removeprefix("torch.")
        sums = shares.get(dtype, (0, 0, 0))
        shares[dtype] = (sums[0] + touching, sums[1] + moving, sums[2] + movable)
    return Trial(step, max(rates), shares, directions)


def _decays(inner: Any, rates: list[float]) -> dict[int, tuple[float, float]]:
    """Return rate and weight decay of each parameter, by its id."""
    return {
        id(p): (rate, float(group.get("weight_decay") or 0.0))
        for group, rate in zip(inner.param_groups, rates, strict=True)
        for p in group["params"]
    }


def _first_directions(trial: Trial, model: Any, inner: Any, rates: list[float]) -> dict[str, Any]:
    """Return how the parameters of a trial move in an optimizer's first step, without momentum.

    What earlier batches left in its moments may point elsewhere than this batch's gradient.
    """
    tensors, state = dict(model.named_parameters()), inner.state
    decay = _decays(inner, rates)
    with _taken_back(model, inner, rates) as before:
        try:
            inner.state = defaultdict(dict)
            inner.step()
            return {
                name: direction_of(
                    tensors[name], before[name], *decay.get(id(tensors[name]), (0, 0))
                )
                for name in trial.directions
            }
        except (KeyError, AttributeError, RuntimeError):  # it fills its state when it is built
            return trial.directions
        finally:
            inner.state = state


def _wants_a_closure(optimizer: Any) -> bool:
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def can_move(weight: Tensor, rate: float) -> Tensor:
    """Return whether an update of that size would change each element (bool, as ``weight``).

    It would if it is half a unit in the last place, ``2^(e-1) eps / 2``, or more, ``e`` being the
    exponent of ``|w| = m 2^e`` with m in [0.5, 1): so if ``|w|`` lies below a power of two,
    ``2^floor(log2(4 rate / eps))``.  A zero takes any update.
    """
    import torch

    kind = torch.finfo(weight.dtype)
    _, exponent = math.frexp(4 * rate / kind.eps)
    bound = math.ldexp(1.0, exponent - 1)
    if not rate > 0 or bound <= kind.smallest_normal * kind.eps:  # nothing lies between it and zero
        return weight == 0
    return weight.abs() < min(bound, kind.max)
