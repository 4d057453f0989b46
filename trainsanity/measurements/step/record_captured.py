"""The first optimizer steps of a script's own training loop, from what was captured of them.

The loop itself cannot be asked again.  Its model can: each call is repeated with the weights and
random numbers that it had, for what the head read and for the gradient of its own loss.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.errors import first_line
from trainsanity.isolation.host_memory import to_device
from trainsanity.isolation.snapshot import preserved, snapshot_bytes
from trainsanity.maths.norms import norm_of_all
from trainsanity.maths.tolerances import REDUCTIONS
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.model.head import head_or_none, watched
from trainsanity.measurements.step.bounds import gradient_unit
from trainsanity.measurements.step.captured_loss import call_again, loss_of, trained_loss
from trainsanity.measurements.step.checkpointing import checkpointed
from trainsanity.measurements.step.driven import driven
from trainsanity.measurements.step.hooks import ModuleState
from trainsanity.measurements.step.modes import watched_modes
from trainsanity.measurements.step.output_again import fill_items
from trainsanity.measurements.step.own import Own, loss_and_gradient, own_gradients
from trainsanity.measurements.step.pull import ModelCall, watch_aims
from trainsanity.measurements.step.rearranged import Rearranged
from trainsanity.measurements.step.record_notes import note_rates, note_update
from trainsanity.measurements.step.sampling import sample
from trainsanity.measurements.step.steps import NOT_AGAIN, MicroStep, Recording, Step
from trainsanity.measurements.step.unused import unused_parameters
from trainsanity.measurements.step.update import frozen_state, rewritten, trial_steps
from trainsanity.sources.loop_tracks import unwrapped_module

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.objectives.loss_places import LossCall
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.captured import Backward, Captured, CapturedStep

BY_HAND = 1e-3
"""Relative: gradients whose norm differs by more from what the last backward pass left were changed
by the loop itself.  Chosen: norms are computed in float32, and nobody divides by so little."""

NEITHER = (
    "the loss that was sent backward is no constant times the model's own, nor times a formula "
    "that was seen: accumulation was not judged"
)

CHANGED = (
    "the loop changes gradients itself between its last backward pass and the optimizer's step, as "
    "centralised gradients and parts that are trained by turns do"
)

NOT_ACCUMULATED = (
    "the backward passes of a step are not one for each batch of a DataLoader: accumulation was "
    "not judged"
)


def record(pipeline: Pipeline, steps: int) -> Recording:
    """Return the captured steps, with what each call of the model shows when it is repeated."""
    captured = pipeline.captured
    assert captured is not None
    model, optimizer = pipeline.model, pipeline.optimizer
    name, head = head_or_none(pipeline)
    begin = time.perf_counter()
    with (
        preserved(pipeline, weights=True),
        quiet(pipeline),
        watched(model, head) as watch,
    ):
        seen = Recording(head_name=name, snapshot_bytes=snapshot_bytes(pipeline))
        seen.snapshot_seconds = time.perf_counter() - begin
        seen.rearranged = Rearranged(reason=NOT_AGAIN)
        seen.checkpointing = checkpointed(model)
        seen.composed = any(one.call is None for one in captured.first.passes)
        frozen = frozen_state(model)
        start = time.perf_counter()
        with watched_modes(model, seen):
            for taken in captured.steps[:steps]:
                _put(model, taken.weights)
                seen.steps.append(_step(pipeline, seen, taken, watch))
                _give(model, taken.gradients)
                note_update(seen, model, optimizer)
                note_rates(seen, optimizer)
                seen.steps[-1].rates = [*taken.rates, *seen.steps[-1].rates[len(taken.rates) :]]
                seen.steps[-1].learning_rate = taken.rates[0]
        seen.driven = driven(optimizer, captured.stray or pipeline.lr_scheduler)
        now = frozen_state(model)
        for parameter in seen.update.parameters:
            parameter.changed_frozen = rewritten(parameter.name, frozen, now)
        trial_steps(seen.update, model, optimizer, None, 0)
        seen.seconds = time.perf_counter() - start
        begin = time.perf_counter()
    seen.restore_seconds = time.perf_counter() - begin
    for one in (call for made in captured.first.passes for call in made.losses):
        _add(seen.loss_calls, one)
    first = captured.first.passes[0].call
    if first is not None and _is_whole(model, first.module):
        seen.model_call = ModelCall(first.args, first.kwargs)
    seen.clipped_late = captured.steps[-1].clipped_late
    if len(captured.first.passes) > 1 and not captured.accumulates:
        seen.not_comparable = NOT_ACCUMULATED
    elif any(map(_by_hand, captured.steps)):
        seen.not_comparable = CHANGED
    stale = _note_stale(seen, captured)
    seen.gradients = {
        n: sample(gradient) for n, gradient in captured.first.gradients.items() if n not in stale
    }
    with preserved(pipeline, weights=True), quiet(pipeline):
        seen.own = _own(pipeline, captured, seen, stale)
        if seen.own.reason and seen.not_comparable != CHANGED:
            seen.sent = _sent(pipeline, captured, seen, stale)
    fill_items(pipeline, seen)
    return seen


def _put(model: Any, weights: dict[str, Tensor]) -> None:
    import torch

    named = dict(model.named_parameters())
    with torch.no_grad():
        to_device(list(weights.values()), [named[name] for name in weights])


def _give(model: Any, gradients: dict[str, Tensor]) -> None:
    for name, p in model.named_parameters():
        p.grad = gradients[name].to(p.device) if name in gradients else None


def _step(pipeline: Pipeline, seen: Recording, taken: CapturedStep, watch: Any) -> Step:
    """Return a captured step, its model's calls repeated."""
    first = not seen.steps
    step = Step(norm_before_clip=_norm(taken), norm_after_clip=taken.norm_after)
    step.clip_given = taken.clip_given
    if not first or (pipeline.captured and pipeline.captured.before):
        step.left = taken.left
    for made in taken.passes:
        micro = MicroStep(loss=made.value, loss_dtype=made.dtype, backward_loss=made.value)
        step.micro_steps.append(micro)
        if made.call is None:
            continue
        inputs = _named_inputs(made)
        del watch.passes[:]
        call_again(made)
        micro.size = _rows(inputs)
        if first:
            micro.inputs, micro.random_state = inputs, made.call.random_state
            micro.state = ModuleState(made.call.buffers, [], None)
        done = watch.passes[0] if len(watch.passes) == 1 else None
        labels, task = inputs.get("labels"), objective_of(pipeline)
        if done is not None and labels is not None and task.known:
            micro.sort_items(task, done, labels)
    if seen.head_name:
        step.head_gradient = taken.gradients.get(f"{seen.head_name}.weight")
    accumulates = len(taken.passes) == 1 or (pipeline.captured and pipeline.captured.accumulates)
    alike = all(made.call is not None for made in taken.passes) and _kept(taken) == 1
    if accumulates and alike:
        step.logged = {"loss": sum(made.value for made in taken.passes)}
    return step


def _norm(taken: CapturedStep) -> float:
    return norm_of_all(taken.gradients.values())


def _kept(taken: CapturedStep) -> float:
    """Return the norm of the gradients over that after the last backward pass; 1 if nearly equal.

    A ``GradScaler`` that has not divided out its factor before a clip is no change.
    """
    last = taken.passes[-1]
    norm = _norm(taken)
    if not last.norm > 0:
        return 1.0
    for left in (last.norm, last.norm / last.scale):
        if math.isclose(norm, left, rel_tol=BY_HAND):
            return 1.0
    return norm / last.norm


def _by_hand(taken: CapturedStep) -> bool:
    """Return whether the loop itself changed the gradients.

    What it divides out, as a scaler of its own does, is a power of two in every recipe.
    """
    kept = _kept(taken)
    if not 0 < kept < math.inf:
        return True
    return not math.isclose(kept, 2.0 ** round(math.log2(kept)), rel_tol=REDUCTIONS)


def _named_inputs(made: Backward) -> dict[str, Any]:
    """Return what the model was given, by the names of its forward."""
    call = made.call
    assert call is not None
    inner = call.module
    forward = getattr(inner, "_original_forward", None) or inner.forward
    try:
        bound = inspect.signature(forward).bind(*call.args, **call.kwargs)
    except (TypeError, ValueError):
        return dict(call.kwargs)
    named = {**bound.arguments}
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            named.pop(name, None)
    return named


def _rows(inputs: dict[str, Any]) -> int:
    import torch

    return next((len(v) for v in inputs.values() if torch.is_tensor(v) and v.dim()), 0)


def _add(calls: list[LossCall], one: LossCall) -> None:
    """Add a call of a loss function to those from the same line."""
    for call in calls:
        if (call.function, call.where) == (one.function, one.where):
            call.count += one.count
            told = {misfit.cause for misfit in call.misfits}
            call.misfits += [misfit for misfit in one.misfits if misfit.cause not in told]
            return
    calls.append(dataclasses.replace(one, misfits=[*one.misfits]))


def _note_stale(seen: Recording, captured: Captured) -> set[str]:
    """Note where the head's gradient is that of several steps.

    Returns:
        the trained parameters that the optimizer does not hold, where steps before the first have
        left their gradients there: ``zero_grad`` passes them by.
    """
    strange = {p.name for p in seen.update.parameters if p.trainable and not p.held}
    for number, step in enumerate(seen.steps, captured.before):
        step.head_left = number > 0 and f"{seen.head_name}.weight" in strange
    return strange if captured.before else set()


def _own(pipeline: Pipeline, captured: Captured, seen: Recording, stale: set[str]) -> Own:
    """Ask each micro-batch of the first step for the gradient of its own loss."""
    passes = captured.first.passes
    kind, factor = trained_loss(captured)
    if any(made.call is None for made in passes):
        return Own(reason="the loop calls several modules, or one several times, for one loss")
    if not kind:
        return Own(reason=NEITHER)
    if seen.not_comparable:
        return Own(reason=seen.not_comparable)
    # By what the loss of a whole step is multiplied is the loop's own choice.
    times = factor if len(passes) == 1 else 1.0

    def ask(made: Backward) -> float:
        output = call_again(made)
        assert made.call is not None
        watch_aims(seen.pulls, output, [*made.call.args, *made.call.kwargs.values()])
        loss = loss_of(made, kind, output) * times
        loss.backward()
        return float(loss.detach())

    parameters = {
        n: p for n, p in pipeline.model.named_parameters() if p.requires_grad and n not in stale
    }
    asks: list[Callable[[], float]] = [partial(ask, made) for made in passes]
    try:
        own = own_gradients(parameters, seen.gradients, asks, _eps(passes[0], pipeline.model))
        without = {n: p for n, p in parameters.items() if n not in seen.gradients}
        if passes[0].call is not None and _is_whole(pipeline.model, passes[0].call.module):
            seen.unused = unused_parameters(without, lambda: loss_and_gradient(parameters, asks[0]))
    except Exception as error:
        return Own(reason=f"asked again it raised {type(error).__name__}: {first_line(error)}")
    return own


def _sent(pipeline: Pipeline, captured: Captured, seen: Recording, stale: set[str]) -> Own | None:
    """Hold the gradient of a step of one pass against that of what it sent backward."""
    made = captured.first.passes[0]
    # Of several it is not known how each should count; and two models that are trained by turns
    # leave gradients in each other, and clear them.
    if len(captured.first.passes) > 1 or captured.other_models or not made.sent:
        return None
    parameters = {
        n: p for n, p in pipeline.model.named_parameters() if p.requires_grad and n not in stale
    }

    def ask() -> float:
        for p in parameters.values():
            p.grad = made.sent[id(p)].to(p) if id(p) in made.sent else None
        return made.value

    return own_gradients(parameters, seen.gradients, [ask], _eps(made, pipeline.model))


def _is_whole(model: Any, called: Any) -> bool:
    """Return whether the script called the model itself, and not a part of it."""
    return unwrapped_module(called) is model


def _eps(made: Backward, model: Any) -> float:
    import torch

    dtypes = set()
    if made.call is not None and made.call.autocast is not None:
        dtypes.add(made.call.autocast[1])
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    dtypes |= {mixed[name] for name in [_accelerates()] if name in mixed}
    return gradient_unit(model, *dtypes)


def _accelerates() -> str:
    """Return the mixed precision of an Accelerator that was made, which wraps the forward."""
    import sys

    state = sys.modules.get("accelerate.state")
    shared = {} if state is None else state.AcceleratorState._shared_state
    return str(shared.get("_mixed_precision", ""))
