"""The first step's micro-batches of a custom training loop, each given to it as a whole step.

The loop's own ``train_step`` is called with one micro-batch at a time.  Most loops divide by the
number of micro-batches that they are given; one that divides by a number of its own would seem to
take a part of each, and is told by what the backward pass starts from beside the loss that the
model itself returns.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.random_states import random_hashes, reseed
from trainsanity.isolation.snapshot import preserved
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.batches.batch import drawn, prepared, quiet
from trainsanity.measurements.step.bounds import gradient_unit
from trainsanity.measurements.step.gradient_samples import AT_MOST, ELEMENTS, sampled_of
from trainsanity.measurements.step.guided import Guided, ask_guided
from trainsanity.measurements.step.loop_gradients import Gradients, before_the_clip
from trainsanity.measurements.step.own import Own, solve
from trainsanity.measurements.step.rearranged import REDRAWN, set_alike
from trainsanity.measurements.step.steps import Recording, set_random_state
from trainsanity.types import OUTCOMES

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

MICRO_BATCHES = 64
"""More of them are not asked one by one: the loop takes an optimizer step for each."""


def ask_loop_again(pipeline: Pipeline, seen: Recording, begun: Any) -> Own:
    """Return own losses and own gradients of the first step's micro-batches.

    Args:
        pipeline: whose ``train_step`` is called; everything is put back after each call.
        seen: the recorded steps.
        begun: random state at the beginning of the first step.
    """
    micros = seen.first.micro_steps
    if pipeline.other_processes is not None:
        return Own(reason="a step of one process alone is none of several")
    if len(micros) > MICRO_BATCHES:
        return Own(reason=f"more than {MICRO_BATCHES} micro-batches are not asked one by one")
    if not seen.first.logged:
        return Own(reason="the loop returned no loss")
    own = Own(eps=_eps(pipeline, seen))
    parameters = {name: p for name, p in pipeline.model.named_parameters() if p.requires_grad}
    size = max(1, min(ELEMENTS, AT_MOST // max(1, len(parameters) * len(micros))))
    columns, parts = [], []
    try:
        for place, micro in enumerate(micros):
            state = micro.random_state if place else begun
            loss, samples, part, _ = _alone(pipeline, seen, place, state)
            own.losses.append(loss)
            own.items.append(None)
            columns.append(sampled_of(samples, parameters, size))
            parts.append(part)
    except OUTCOMES as why:
        return Own(reason=str(why))
    except Exception as error:
        return Own(reason=f"given one micro-batch it raised {type(error).__name__}: "
                          f"{first_line(error)}")  # fmt: skip
    solve(own, columns, sampled_of(seen.gradients, parameters, size))
    _settle_the_divisor(own, seen, parts)
    floor = MARGIN * own.eps * math.sqrt(len(micros)) + REDUCTIONS
    apart = len(micros) > 1 and not own.reason and not within(own.residual, floor)
    if apart and _is_one_batch(pipeline, seen, begun):
        # All rows are one item of the step, which is a mean over that one alone.
        whole = Own([seen.first.logged["loss"]], items=[None], weights=[1.0], errors=[0.0])
        return replace(
            whole, residual=0.0, condition=1.0, norms=[own.norm], norm=own.norm, eps=own.eps
        )
    return own


def _is_one_batch(pipeline: Pipeline, seen: Recording, begun: Any) -> bool:
    """Return whether the micro-batches of a step give what their rows do as a single batch.

    A loss of all pairs of a step, as of contrastive training with cached gradients, is no mean of
    the micro-batches' own. Layers are in eval mode: a single batch draws other random numbers.
    """
    import torch

    with contextlib.suppress(Exception), _layers_in_eval(pipeline.model):
        with preserved(pipeline), quiet(pipeline):
            parts = [*next(drawn(pipeline, 1))]
            rows = copy.deepcopy([row for one in parts for row in one.sources])
            whole = prepared(pipeline, pipeline.data_collator(rows))
        found = [
            _asked(pipeline, seen, given, begun)[:2]
            for given in ([dict(one.inputs) for one in parts], [whole])
        ]
        (loss, by_parts), (loss_of_all, by_all) = (
            (loss, torch.cat([one.double().flatten() for one in samples.values()]))
            for loss, samples in found
        )
        share = MARGIN * _eps(pipeline, seen) + REDUCTIONS
        near = within(float((by_parts - by_all).norm()), share * float(by_all.norm()))
        return near and within(abs(loss - loss_of_all), share * max(1.0, abs(loss)))
    return False


def redrawn_in_loop(pipeline: Pipeline, seen: Recording, begun: Any) -> float:
    """Return the first micro-batch's loss with other random numbers, if it is another; else NaN.

    Layers are in eval mode wherever they are called, so that what is drawn is the loop's own.
    """
    if not seen.own.losses:
        return math.nan
    with contextlib.suppress(Exception), _layers_in_eval(pipeline.model):
        first, pull, draws = _drawing(pipeline, seen, begun)
        if not draws:
            return math.nan
        # A seed that is made of the step's number is another one in the next.
        alike = len(seen.seeds) > 1 and all(one == seen.seeds[0] for one in seen.seeds)
        if alike and seen.seeds[0] and (seeded := _seeded(pipeline, seen, begun)):
            seen.rearranged.seeded = seeded
        # A head that has learnt nothing gives all labels one loss, and other gradients.
        share = MARGIN * seen.own.eps + REDUCTIONS
        for seed in range(REDRAWN):
            again, other, _ = _drawing(pipeline, seen, begun, seed)
            apart = float((other - pull).norm()) > share * float(pull.norm())
            if apart or abs(again - first) > share * max(1.0, abs(first)):
                return again
    return math.nan


def _seeded(pipeline: Pipeline, seen: Recording, begun: Any) -> list[str]:
    """Return the random states that a step leaves the same, whatever they were."""
    states: list[tuple[dict[str, str], dict[str, str]]] = []
    for seed in range(2):
        with preserved(pipeline):
            _alone(pipeline, seen, 0, begun, seed=seed, states=states)
    return set_alike(*states)


def guided_in_loop(pipeline: Pipeline, seen: Recording, begun: Any) -> Guided:
    """Return how the gradient answers to another model that runs beside the trained one."""
    if not seen.beside or not seen.own.losses:
        return Guided()

    def take(change: Any) -> None:
        _alone(pipeline, seen, 0, begun, change=change)

    inputs = seen.first.micro_steps[0].inputs
    try:
        return ask_guided(pipeline.model, take, inputs)
    except Exception:  # a loop that counts its steps may refuse another first one
        return Guided()


def _drawing(
    pipeline: Pipeline, seen: Recording, state: Any, seed: int | None = None
) -> tuple[float, Tensor, bool]:
    """Return loss and gradient of the first micro-batch, and whether random numbers were drawn."""
    import torch

    with preserved(pipeline):
        loss, samples, _, draws = _alone(pipeline, seen, 0, state, seed=seed)
    return loss, torch.cat([one.double().flatten() for one in samples.values()]), draws


@contextlib.contextmanager
def _layers_in_eval(model: Any) -> Iterator[None]:
    def to_eval(module: Any, _inputs: Any) -> None:
        module.training = False

    below = [module for module in model.modules() if module is not model]
    flags = [module.training for module in below]
    handles = [module.register_forward_pre_hook(to_eval) for module in below]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, training in zip(below, flags, strict=True):
            module.training = training


def _settle_the_divisor(own: Own, seen: Recording, parts: list[float]) -> None:
    """Tell a loop that divides by a number of its own from one that does not divide at all.

    Both return K times the mean of what they return for single micro-batches, and so does the
    gradient.  The first starts each backward pass from a K-th of the model's own loss.
    """
    count = len(own.losses)
    mean = sum(own.losses) / count
    logged = seen.first.logged["loss"]
    if count == 1 or not mean or not _near(own.total, count) or not _near(logged / mean, count):
        return
    if all(_near(part * count, 1) for part in parts):
        own.losses = [loss * count for loss in own.losses]
        own.weights = [weight / count for weight in own.weights]
        own.errors = [error / count for error in own.errors]
    elif not all(_near(part, 1) for part in parts):
        own.reason = (
            "a loop that divides by a number of its own cannot be told from one that sums, where "
            "the model returns no loss"
        )


def _near(value: float, expected: float) -> bool:
    # Nearer than two numbers of micro-batches are to each other, with room for bfloat16.
    return math.isclose(value, expected, rel_tol=max(1e-3 * expected, 10 * REDUCTIONS))


def _alone(
    pipeline: Pipeline,
    seen: Recording,
    place: int,
    state: Any,
    *,
    seed: int | None = None,
    change: Callable[[Mapping[str, Any]], dict[str, Any]] = dict,
    states: list[Any] | None = None,
) -> tuple[float, dict[str, Any], float, bool]:
    """Ask one micro-batch as a step, with the random numbers of a state or of a seed.

    ``change`` makes other inputs of it; ``states`` is given the random states around it.

    Returns:
        its loss, its gradient, its share of the model's loss, and whether random numbers were
        drawn.
    """
    with preserved(pipeline), quiet(pipeline):
        given = next(drawn(pipeline, 1)).micro_batches[place]
    return _asked(pipeline, seen, [change(given.inputs)], state, seed=seed, states=states)


def _asked(
    pipeline: Pipeline,
    seen: Recording,
    given: list[dict[str, Any]],
    state: Any,
    *,
    seed: int | None = None,
    states: list[Any] | None = None,
) -> tuple[float, dict[str, Any], float, bool]:
    """Ask some batches as a step; see :func:`_alone`."""
    step = pipeline.train_step
    assert step is not None
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
    with (
        preserved(pipeline, weights=True),
        quiet(pipeline),
        Gradients(pipeline.model, seen.head_name, optimizer) as gradients,
        _roots_seen(pipeline.model) as roots,
    ):
        pipeline.model.zero_grad()
        handle = optimizer.register_step_pre_hook(lambda *_: gradients.note())
        try:
            set_random_state(state)
            if seed is not None:
                reseed(seed)
            before = random_hashes()
            loss = float(step(given))
            ended = random_hashes()
            draws = before != ended
            if states is not None:
                states.append((before, ended))
        finally:
            handle.remove()
            pipeline.model.zero_grad()
        (taken,) = gradients.taken
    clip = pipeline.args.max_grad_norm
    part = roots.starts[0] / roots.losses[0] if roots.usable else math.nan
    return loss, before_the_clip(taken, clip).samples, part, draws


class _Roots:
    """Starts of backward passes, and the losses that the model returns."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.losses: list[float] = []

    @property
    def usable(self) -> bool:
        """Return whether there is one of each, above zero."""
        return len(self.starts) == len(self.losses) == 1 and self.losses[0] != 0


@contextlib.contextmanager
def _roots_seen(model: Any) -> Iterator[_Roots]:
    import torch

    roots = _Roots()
    backward = torch.autograd.backward

    def starting(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_tensor(tensors) and tensors.numel() == 1:
            roots.starts.append(float(tensors.detach()))
        return backward(tensors, *args, **kwargs)

    def at_end(_module: Any, _inputs: Any, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if torch.is_tensor(loss) and loss.numel() == 1:
            roots.losses.append(float(loss.detach()))

    handle = model.register_forward_hook(at_end)
    torch.autograd.backward = starting
    try:
        yield roots
    finally:
        torch.autograd.backward = backward
        handle.remove()


def _eps(pipeline: Pipeline, seen: Recording) -> float:
    losses = {micro.loss_dtype for micro in seen.first.micro_steps if micro.loss_dtype}
    return gradient_unit(pipeline.model, *(one for one in losses if one.is_floating_point))
