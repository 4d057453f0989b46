"""The gradients of a custom training loop: after its backward passes, and as it steps with them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.collectives import added_up, all_gather
from trainsanity.isolation.shards import whole
from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import REDUCTIONS
from trainsanity.measurements.step.sampling import any_gradient, sample, total_norm
from trainsanity.measurements.step.steps import Recording

if TYPE_CHECKING:
    from torch import Tensor

CLIP = 1e-3
"""Relative: how near a norm comes to the norm that a loop clips to, of which torch's own clip stays
away by 1e-6 over the norm."""


@dataclass
class Reading:
    """Gradients at one moment.

    Attributes:
        samples: of each parameter that has one.
        head: of the head's weight.
        norm: over all parameters.
    """

    samples: dict[str, Tensor] = field(default_factory=dict)
    head: Any = None
    norm: float = 0.0


@dataclass
class Taken:
    """The gradient of one optimizer step.

    Attributes:
        before: after the last backward pass, or as a clip of torch's found it.
        stepped: as the optimizer found it.
        clipped: a clip of torch's was seen.
        given: see ``Step.clip_given``.
        left: gradients of the step before were there as its first backward pass began.
    """

    before: Reading
    stepped: Reading
    clipped: bool
    left: bool = False
    given: tuple[int, int] | None = None


class Gradients:
    """Reads what the parameters have accumulated.

    A loop clips between its backward pass and its optimizer's step, by torch's function or one of
    its own; before the clip it may divide by the scale that the loss was multiplied by, or average
    over processes.
    """

    def __init__(self, model: Any, head_name: str, optimizer: Any) -> None:
        self.taken: list[Taken] = []
        self._model, self._head = model, f"{head_name}.weight"
        self._before: Reading | None = None
        self._queued = self._clipped = False
        self._given: tuple[int, int] | None = None
        self._optimizer, self._begun, self._left = optimizer, False, False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Gradients:
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._accumulated)
                self._stack.callback(handle.remove)
                # Called before the gradient is added to what is there.
                self._stack.callback(parameter.register_hook(self._arriving).remove)
        own = {id(parameter) for parameter in self._model.parameters()}
        for group in getattr(self._optimizer, "optimizer", self._optimizer).param_groups:
            for held in group["params"]:
                # Those of a loss get theirs before the model does.
                if held.requires_grad and id(held) not in own:
                    self._stack.callback(held.register_hook(self._arriving).remove)
        self._stack.enter_context(_clips_seen(self._at_clip))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def note(self) -> None:
        """Note the gradient of a step that the optimizer is about to take."""
        stepped = self._read()
        # A loop that writes its gradients itself, as by torch.autograd.grad, has no backward pass.
        before = stepped if self._before is None else self._before
        self.taken.append(Taken(before, stepped, self._clipped, self._left, self._given))
        self._before, self._clipped, self._given = None, False, None

    def stepped(self) -> None:
        """Note that the optimizer has stepped."""
        self._begun = self._left = False

    def _arriving(self, _gradient: Any) -> None:
        if not self._begun:
            self._begun, self._left = True, any_gradient(self._optimizer)

    def _accumulated(self, _parameter: Any) -> None:
        import torch

        if self._queued:
            return
        self._queued = True
        engine: Any = torch.autograd.Variable._execution_engine
        # DistributedDataParallel averages at the end of the pass, in a callback that it queues
        # after this one: what is queued from within comes after that.
        engine.queue_callback(lambda: engine.queue_callback(self._after_backward))

    def _after_backward(self) -> None:
        self._queued = self._clipped = False
        self._before, self._given = self._read(), None

    def _at_clip(self, given: list[Tensor]) -> None:
        # A clip of some other model's gradients in between changes nothing here.  Of clips that
        # follow each other, of a part each, the first finds what no clip has changed.
        if not self._clipped:
            self._before, self._clipped = self._read(), True
        count = (len(given), sum(p.grad is not None for p in given))
        self._given = max(self._given or (0, 0), count, key=lambda one: one[::-1])

    def _read(self) -> Reading:
        held = {name: p for name, p in self._model.named_parameters() if p.grad is not None}
        head = held.get(self._head)
        return Reading(
            {name: sample(p.grad) for name, p in held.items() if p.requires_grad},
            None if head is None else whole(head.grad.detach()).cpu().clone(),
            total_norm(self._model),
        )


@contextlib.contextmanager
def _clips_seen(note: Any) -> Iterator[None]:
    """Give ``note`` what torch clips, also where the loop imported that function before.

    What ``clip_grad_norm_`` calls to multiply the gradients is looked up in its module when it
    runs; a torch without such a function is watched by the public name.
    """
    import torch

    module: Any = torch.nn.utils.clip_grad
    name = "_clip_grads_with_norm_"
    home: Any = module if hasattr(module, name) else torch.nn.utils
    name = name if home is module else "clip_grad_norm_"
    original = getattr(home, name)

    def noting(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        # A generator can be read once.
        given = [parameters] if torch.is_tensor(parameters) else list(parameters)
        note(given)
        return original(given, *args, **kwargs)

    setattr(home, name, noting)
    try:
        yield
    finally:
        setattr(home, name, original)


def settle(seen: Recording, gradients: Gradients, clip: float, *, several: bool) -> None:
    """Write the gradients of the recorded steps, as they were before a clip.

    Args:
        seen: the steps.
        gradients: what was read.
        clip: ``max_grad_norm`` as the loop declares it; 0 if it declares none.
        several: average over the processes, which all have to ask.  A loop that never averages has
            as many models as processes, which ``loop.ranks_hold_equal_weights`` judges.
    """
    for step, taken in zip(seen.steps, gradients.taken, strict=False):
        step.left = None if step is seen.first else taken.left
        step.clip_given = taken.given
        if several:
            taken.before, taken.stepped = _averaged(taken.before), _averaged(taken.stepped)
        chosen = before_the_clip(taken, clip, several=several)
        step.head_gradient, step.norm_before_clip = chosen.head, chosen.norm
        if step is seen.first:
            seen.gradients = chosen.samples


def before_the_clip(taken: Taken, clip: float, *, several: bool = False) -> Reading:
    """Return the gradient of a step as it was before a clip."""
    return taken.stepped if _other_than_clipped(taken, clip, several) else taken.before


def _other_than_clipped(taken: Taken, clip: float, several: bool) -> bool:
    """Return whether something else than a clip came between the backward pass and the step.

    A clip that is seen says where it begins.  One that is not makes the gradient shorter, by one
    factor for all parameters, and down to ``max_grad_norm`` where that is declared; a scale that is
    divided out is a power of two in every recipe, and a clip's factor is one by chance only.
    """
    import torch

    before, stepped = taken.before, taken.stepped
    if taken.clipped or not before.samples or before.samples.keys() != stepped.samples.keys():
        return False
    slope, cosine = regress(
        torch.cat([stepped.samples[name].double() for name in before.samples]),
        torch.cat([one.double() for one in before.samples.values()]),
    )
    if not abs(1 - cosine) <= REDUCTIONS:
        return several
    if slope > 1:
        return True
    if clip and math.isclose(stepped.norm, clip, rel_tol=CLIP):
        return False
    power = math.isclose(slope, 2.0 ** round(math.log2(slope)), rel_tol=REDUCTIONS)
    return bool(clip) or power


def _averaged(own: Reading) -> Reading:
    """Average a reading over the processes; what one does not have is 0 there."""
    import torch
    from torch import distributed

    shapes = all_gather({name: tuple(value.shape) for name, value in own.samples.items()})
    heads = [tuple(one) for one in all_gather(None if own.head is None else own.head.shape) if one]

    def mean(value: Any, shape: tuple[int, ...]) -> Any:
        mine = torch.zeros(shape) if value is None else value.cpu().float()
        return added_up(mine) / distributed.get_world_size()

    every = {name: shape for process in shapes for name, shape in process.items()}
    samples = {name: mean(own.samples.get(name), every[name]) for name in sorted(every)}
    head = mean(own.head, heads[0]) if heads else None
    return Reading(samples, head, own.norm)
