"""The first step's micro-batches once more: the same rows, weights and random numbers.

What comes back is the gradient of the step's mean loss as automatic differentiation gives it,
micro-batch by micro-batch and added up in float64: by linearity that is the gradient of the whole
step as one batch, without the memory of one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.isolation.collectives import added_up, all_gather, overwritten_from_zero
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.mesh import a_group
from trainsanity.isolation.shards import computed_in_parts, in_parts, made_in_parts, resharded
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.model.items import with_prompt
from trainsanity.measurements.step.checkpointing import checkpointed_in
from trainsanity.measurements.step.fused import added_by_chunks, half_a_unit
from trainsanity.measurements.step.output_again import logits_again
from trainsanity.measurements.step.reference_loss import item_weights
from trainsanity.measurements.step.sampling import sample
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.measurements.step.training_mode import as_in_training
from trainsanity.pipeline import micro_batches_of
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

ODD = 3.0
"""Another scale for the same loss.  Not a power of two: that would round nothing."""


FEW = 8
"""Elements that MARGIN is made for: it is exceeded by chance once in a thousand times."""


@dataclass(frozen=True)
class Replay:
    """Gradients of the first step's mean loss, a sample of each trainable parameter's.

    Attributes:
        gradients: float64, by parameter.
        noise: by parameter, relative to its norm: what the gradient changes by when the loss is
            computed in the logits' own dtype, by torch's function and at another scale, by the
            rounding of residuals
            that are nearly 0, and when the micro-batches' parts are rounded to the gradient's
            dtype as they are added up.  A correct pipeline
            differs from the reference by no more than such roundings.
        common: what the rounding of one number makes of all gradients alike, relative: a fused loss
            scales its gradients elsewhere than the reference, which has 1 / N in the logits' dtype;
            half a unit in its last place.  0 where the logits that were trained on were seen.
        checkpointing: by parameter, norm of the difference that gradient checkpointing makes in
            the first micro-batch, relative to the gradient there; None if it was not on.
    """

    gradients: dict[str, Tensor] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)
    common: float = 0.0
    checkpointing: dict[str, float] | None = None


def _forwards(pipeline: Pipeline) -> int:
    """Return about how many forward passes it takes: none where a loop's model gives no loss."""
    captured = pipeline.captured
    if captured is not None and all(math.isnan(one.model_loss) for one in captured.first.passes):
        return 0
    return 3 * (micro_batches_of(pipeline) + 1)


@measurement(Cost.STEP, forwards=_forwards)
def replay(pipeline: Pipeline, recording: Recording) -> Replay:
    """Differentiate the reference loss of the first step, without gradient checkpointing.

    Raises:
        Skip: the task has no reference loss, the micro-batches were not kept, or the memory does
            not do.
    """
    import torch

    micros = [micro for micro in recording.first.micro_steps if micro.inputs]
    if not objective_of(pipeline).known:
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    if not micros or any("labels" not in micro.inputs for micro in micros):
        raise Skip("the micro-batches of the first step have no labels to be replayed with")
    if made_in_parts(pipeline.model):
        raise Skip("DeepSpeed made the model in parts, and differentiates it with its engine alone")
    if computed_in_parts(pipeline.model):
        raise Skip("tensor parallelism computes with parts of the weights: they have no gradient "
                   "of their own")  # fmt: skip
    try:
        return _replay(pipeline, recording, micros)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise Skip(
            "the reference gradient does not fit beside the model without gradient checkpointing: "
            "give a smaller per_device_train_batch_size"
        ) from error


def _replay(pipeline: Pipeline, recording: Recording, micros: list[MicroStep]) -> Replay:
    import torch

    sizes = [_size(pipeline, micro) for micro in recording.first.micro_steps]
    if not all(sizes):
        raise Skip("a micro-batch of the step has nothing that the loss counts")
    weights = item_weights(recording.first, sizes)
    exact: dict[str, Tensor] = {}
    rounded: dict[str, Tensor] = {}
    noise: dict[str, float] = {}
    checkpointing = None
    dtypes = {name: p.dtype for name, p in pipeline.model.named_parameters()}
    dtypes |= {one.name: one.dtype for one in recording.update.parameters if one.name in dtypes}
    with _as_wrapped(pipeline, recording), as_in_training(pipeline, recording):
        for micro, weight in zip(recording.first.micro_steps, weights, strict=True):
            if not micro.inputs:
                continue
            saturated: list[float] = []
            part = _gradients(pipeline, micro, weight, dtypes, saturated=saturated)
            if micro is micros[0]:
                noise = _differences(_gradients(pipeline, micro, weight, dtypes, scale=ODD), part)
                noise = {name: by + sum(saturated) for name, by in noise.items()}
                if recording.checkpointing:
                    with checkpointed_in(pipeline.model, recording.checkpointing):
                        again = _gradients(pipeline, micro, weight, dtypes)
                        checkpointing = _differences(again, part)
            for name, gradient in part.items():
                dtype = dtypes[name]
                exact[name] = exact.get(name, 0) + gradient
                rounded[name] = rounded.get(name, torch.zeros_like(gradient, dtype=dtype))
                rounded[name] = rounded[name] + gradient.to(dtype)
    added = _differences({name: g.double() for name, g in rounded.items()}, exact)
    noise = _steadied({name: noise[name] + added[name] for name in noise}, exact)
    if pipeline.other_processes and not in_parts(pipeline.model):
        _add_up(exact)
    fused = [micro for micro in micros if micro.fused]
    common = max((half_a_unit(micro) for micro in fused), default=0.0)
    if fused:
        rows = max(_size(pipeline, micro) for micro in fused)
        for name, by in added_by_chunks(pipeline, recording.head_name, rows, dtypes).items():
            noise[name] = noise.get(name, 0.0) + by
    return Replay(exact, noise, common, checkpointing)


def _steadied(noise: dict[str, float], exact: dict[str, Tensor]) -> dict[str, float]:
    """Give parameters whose sample rests on few elements the middle noise of the others.

    Of an embedding a row or two may be in the sample: their rounding is small by luck.
    """
    few = {name for name in noise if _effective(exact[name]) < FEW}
    others = [by for name, by in noise.items() if name not in few]
    middle = statistics.median(others) if others else 0.0
    return {name: max(by, middle) if name in few else by for name, by in noise.items()}


def _effective(gradient: Tensor) -> float:
    """Return how many elements of one size would have a gradient's second and fourth powers."""
    squares = gradient.double().square()
    fourth = float(squares.square().sum())
    return float(squares.sum()) ** 2 / fourth if fourth else math.inf


@contextmanager
def _as_wrapped(pipeline: Pipeline, recording: Recording) -> Iterator[None]:
    """The weights that step 1 began with: the first process's, which wrapping sends to the others.

    A head that each process draws for itself is another one before, and again afterwards.
    """
    begun = next(iter(recording.held.values()), None)
    parameters = dict(pipeline.model.named_parameters())
    if begun is None or set(begun[0]) != set(parameters):
        yield
        return
    now = dict(zip(parameters, hashes(parameters.values()), strict=True))
    present = all_gather(now)
    if present == begun or any(one != present[0] for one in begun):
        yield
        return
    with preserved(pipeline, weights=True):
        overwritten_from_zero(parameters.values())
        yield


def _size(pipeline: Pipeline, micro: MicroStep) -> int:
    if micro.items is not None:
        return len(micro.items.losses)
    return len(objective_of(pipeline).targets(micro.inputs["labels"]))


def _gradients(
    pipeline: Pipeline,
    micro: MicroStep,
    weight: float,
    dtypes: dict[str, Any],
    *,
    scale: float | None = None,
    saturated: list[float] | None = None,
) -> dict[str, Tensor]:
    """``weight`` times the gradient of the sum of the losses of this micro-batch's items.

    With a ``scale`` the loss stays in the logits' dtype, is computed by torch's own function, is
    scaled before and divided after.
    ``saturated`` is given what the residuals' own rounding is, relative to them: of a model that
    knows its rows, 1 - p is small, and p was rounded where it is nearly 1.
    """
    import torch

    if in_parts(pipeline.model):
        return _gradients_in_parts(pipeline, micro, weight, scale, saturated)
    # Leaves of their own: a hook on the model's parameters changes the Trainer's gradient, and
    # must not change the reference.
    # An engine may have trained them in another dtype.
    leaves = {
        name: p.detach().to(dtypes.get(name)).requires_grad_(p.requires_grad)
        for name, p in pipeline.model.named_parameters()
    }
    by_parameter = {id(p): leaves[name] for name, p in pipeline.model.named_parameters()}

    class Backward(torch.nn.Module):
        """Forward and backward in one call: checkpointing runs parts of the model in both."""

        def __init__(self) -> None:
            super().__init__()
            self.model = pipeline.model

        def forward(self) -> None:
            _backward(pipeline, micro, weight, scale, saturated)

    # Each place once: in a module with two names torch would leave the leaf in place.
    swapped = {
        f"model.{module_name}.{key}".replace("model..", "model."): by_parameter[id(p)]
        for module_name, module in pipeline.model.named_modules()
        for key, p in module._parameters.items()
        if p is not None
    }
    torch.func.functional_call(Backward(), swapped, (), tie_weights=False, strict=False)
    return {
        name: sample(leaf.grad).double() / (scale or 1.0)
        for name, leaf in leaves.items()
        if leaf.grad is not None
    }


def _backward(
    pipeline: Pipeline,
    micro: MicroStep,
    weight: float,
    scale: float | None,
    saturated: list[float] | None,
) -> None:
    import torch

    task = objective_of(pipeline)
    logits = logits_again(pipeline, micro)
    labels = with_prompt(logits, micro.inputs["labels"].to(logits.device))
    task.require_fit(logits, labels)
    values, targets = task.items(logits, labels), task.targets(labels)
    if not values.requires_grad:
        raise Skip("what is trained has no part in the logits, but in other outputs")
    values = values if scale else values.float()
    if saturated is not None:
        values.register_hook(lambda g: saturated.append(_rounding(g, weight)))
    # In 16 bits the logits' own rounding is the larger one.
    as_trained = scale and values.dtype.itemsize >= torch.float32.itemsize
    losses = (task.library_losses if as_trained else task.item_losses)(values, targets)
    (losses.sum() * (weight * (scale or 1.0))).backward()


def _gradients_in_parts(
    pipeline: Pipeline,
    micro: MicroStep,
    weight: float,
    scale: float | None,
    saturated: list[float] | None,
) -> dict[str, Tensor]:
    """As :func:`_gradients`, of the micro-batches that all processes ask for at the same time.

    FSDP2 gathers the weights and takes a mean of the gradients of processes with rows of their own,
    of which the sum is wanted.
    """
    model, processes = pipeline.model, pipeline.args.world_size // a_group(pipeline.trainer)
    resharded(model)
    parameters = dict(model.named_parameters())
    before = [(p, p.grad) for p in parameters.values()]
    for p, _ in before:
        p.grad = None
    try:
        _backward(pipeline, micro, weight, scale, saturated)
        return {
            name: sample(p.grad).double() * processes / (scale or 1.0)
            for name, p in parameters.items()
            if p.grad is not None
        }
    finally:
        for p, gradient in before:
            p.grad = gradient


def _rounding(gradient: Tensor, weight: float) -> float:
    """Return the rounding of residuals, each a difference of numbers up to 1, over their norm."""
    import torch

    norm = float(gradient.norm()) / weight
    eps = float(torch.finfo(torch.float32).eps)
    return eps * math.sqrt(len(gradient)) / norm if norm > 0 else 0.0


def _differences(other: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    found = {}
    for name, gradient in exact.items():
        size = float(gradient.norm())
        difference = float((other[name] - gradient).norm()) if name in other else size
        found[name] = difference / size if size else float(difference > 0)
    return found


def _add_up(gradients: dict[str, Tensor]) -> None:
    for name in sorted(gradients):
        gradients[name] = added_up(gradients[name])
