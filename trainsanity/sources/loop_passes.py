"""What a script did between two optimizer steps: calls of modules, losses, backward passes."""

from __future__ import annotations

import collections
import contextlib
import inspect
import math
import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.host_memory import to_host
from trainsanity.isolation.random_states import torch_states
from trainsanity.maths.norms import norm_of_all
from trainsanity.objectives.loss_arguments import JUDGES
from trainsanity.objectives.loss_places import AT_MOST, LossCall, place
from trainsanity.sources.captured import Backward, Call, Formula

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 256
"""Backward passes whose batches are kept where no optimizer steps: more than any accumulation that
is worth to be asked again."""

CALLS = 4
"""Calls of modules whose outputs are kept: an evaluation with gradients holds all its graphs."""

SENT = 8
"""Backward passes whose gradients are kept: each takes as much memory as the model."""

EVEN = 1e-4
"""Relative: a loss that is divided by a whole number is so to the rounding of float32."""

NODES = 100_000
"""Nodes of a graph that are looked at, about a tenth of a second."""

FEW = 64
"""Elements of a tensor that tell whether it has changed."""

SMALL = 1 << 16
"""Elements of a buffer that is kept with a call."""


class Schedulers:
    """Keeps which schedulers were stepped, whatever thread built them.

    Attributes:
        steps: how often each was.
        placed: those that were told where they are, as ``step(epoch + i / n)`` does.
    """

    def __init__(self) -> None:
        self.steps: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.placed: weakref.WeakSet[Any] = weakref.WeakSet()

    def note(self, scheduler: Any, *, placed: bool) -> None:
        """Note a step of a scheduler, and whether it was told where it is."""
        self.steps[scheduler] = self.steps.get(scheduler, 0) + 1
        if placed:
            self.placed.add(scheduler)


class Passes:
    """Keeps what happened in one thread since the last backward pass, and all backward passes."""

    def __init__(self, scheduled: Schedulers) -> None:
        self.made: list[Backward] = []
        self.inside = False
        self.scaler: Any = None
        self.clip: tuple[dict[int, Tensor], float] | None = None
        self.clip_given: tuple[int, int] | None = None
        self.clipped_late: float | None = None
        self.fresh = False
        self.loader: Any = None
        self.batches = 0
        self.scheduled = scheduled
        self.depth = 0
        self._open: list[Any] = []
        self._begun: dict[str, Any] = {}
        self._calls: list[tuple[Call, Any]] = []
        self._beside: dict[int, Any] = {}
        self._formulas: list[tuple[Formula, Tensor, float]] = []
        self._losses: list[LossCall] = []
        self._before = 0, 0
        self._sample: tuple[list[int], list[float]] = [], []
        self._changes = 0

    # --- forward ---------------------------------------------------------------------------------

    def begin(self, module: Any) -> None:
        """Note that a module is called."""
        import torch

        if self.inside:  # checkpointing runs parts of the model again
            return
        self._open.append(module)
        if len(self._open) > 1:
            return
        self._begun = {}
        self._before = len(self._formulas), len(self._losses)
        if not _trains(module):
            return
        if not torch.is_grad_enabled():
            self._beside[id(module)] = module
        else:
            buffers = [(b, b.detach().clone()) for b in module.buffers() if b.numel() <= SMALL]
            self._begun = {"random_state": torch_states(), "buffers": buffers}

    def end(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Note what a module returned; None if it raised."""
        if self.inside or module not in self._open:
            return
        # Hooks that raise leave a call open.
        while self._open.pop() is not module:
            pass
        if self._open or not self._begun:
            return
        # What the model computes is its own.
        del self._formulas[self._before[0] :], self._losses[self._before[1] :]
        if output is None:
            return
        call = Call(
            module, _copied(args), _copied(kwargs), autocast=_autocast(module), **self._begun
        )
        self._calls.append((call, output))
        del self._calls[:-CALLS]

    def lost(self, function: Any, args: Any, kwargs: Any, value: Tensor, where: Any) -> None:
        """Note what a function of ``torch.nn.functional`` was given, and what it returned."""
        import torch

        if self.inside:
            return
        if value.requires_grad:
            self._look(function, args, kwargs, place(where)[0])
        named = {**dict(zip(inspect.signature(function).parameters, args, strict=False)), **kwargs}
        given, target = named.pop("input", None), named.pop("target", None)
        if (
            value.requires_grad
            and value.numel() == 1
            and torch.is_tensor(given)
            and torch.is_tensor(target)
        ):
            kept = Formula(function, None, tuple(given.shape), target.detach().clone(), named)
            self._formulas.append((kept, given.detach(), float(value.detach())))
            del self._formulas[:-KEPT]

    def _look(self, function: Any, args: Any, kwargs: Any, where: str) -> None:
        """Note what does not fit in the arguments of a loss function."""
        look = JUDGES.get(function.__name__)
        if look is None or len(self._losses) >= AT_MOST:
            return
        # Values that torch itself would refuse are its to tell.
        with contextlib.suppress(TypeError, RuntimeError, IndexError, ValueError):
            bound = inspect.signature(function).bind(*args, **kwargs)
            bound.apply_defaults()
            misfits = list(look(bound.arguments))
            self._losses.append(LossCall(function.__name__, where, 1, misfits))

    # --- backward --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def backward(self, tensors: Any) -> Iterator[None]:
        """Note a backward pass that runs in the block."""
        self.made.append(self._backward_of(tensors))
        if len(self.made) > KEPT:
            self.made[-KEPT - 1].call = self.made[-KEPT - 1].formula = None
        if len(self.made) > SENT:
            self.made[-SENT - 1].sent = {}
        if self.scaler is None and not _is_a_call_s(self.made[-1]):
            self.made[-1].sent = _sent(tensors, self.made[-1].modules)
        self._calls, self._formulas, self._beside, self._losses = [], [], {}, []
        self.clip = self.scaler = self.clip_given = None
        self.fresh = False
        self._open.clear()
        self.inside = True
        try:
            yield
        finally:
            self.inside = False
        self.made[-1].norm = norm_of_all(
            p.grad for module in self.made[-1].modules for p in module.parameters()
        )

    def changed_by_hand(self) -> int:
        """Return between how many backward passes the weights of one model have changed.

        Asked before each, of scripts without an optimizer; a few elements of each tensor tell.
        """
        if self.made and self.made[-1].modules:
            ids = [id(module) for module in self.made[-1].modules]
            sample = [float(p.detach().reshape(-1)[:FEW].double().sum())
                      for module in self.made[-1].modules for p in module.parameters()]  # fmt: skip
            before, self._sample = self._sample, (ids, sample)
            self._changes += before[0] == ids and before[1] != sample
        return self._changes

    def _backward_of(self, tensors: Any) -> Backward:
        import torch

        roots = [tensors] if torch.is_tensor(tensors) else list(tensors)
        single = len(roots) == 1 and roots[0].numel() == 1
        scale = 1.0 if self.scaler is None else float(self.scaler.get_scale())
        calls = self._calls
        if len(calls) > 1:
            calls = [one for one in calls if _leads_to(roots, one[1])] or calls
        made = Backward(
            sum(float(root.detach().sum()) for root in roots) / scale,
            roots[0].dtype,
            list({id(call.module): call.module for call, _ in calls}.values()),
            beside=list(self._beside.values()),
            losses=self._losses,
            scale=scale,
        )
        if not single or len(calls) != 1:
            return made
        made.call, output = calls[0]
        named = _named(output)
        made.call.loss, made.model_loss = _loss_in(named, output)
        found = []
        for formula, given, value in self._formulas:
            for key, tensor in named:
                if tensor.numel() == given.numel() and _equal(tensor, given):
                    formula.output = key
                    found.append((formula, value))
                    break
        if len(found) == 1:
            made.formula, made.formula_loss = found[0]
        return made

    def clipped(self, parameters: list[Any], norm: float) -> None:
        """Note gradients as a clip finds them."""
        if self.fresh:  # no backward pass since an optimizer has stepped
            self.clipped_late = norm
            return
        held = [p for p in parameters if p.grad is not None]
        count = (len(parameters), len(held))
        self.clip_given = max(self.clip_given or (0, 0), count, key=lambda one: one[::-1])
        copies = to_host([p.grad for p in held])
        self.clip = ({id(p): copy for p, copy in zip(held, copies, strict=True)}, norm)

    def forget(self) -> None:
        """Drop the backward passes of a step that was skipped."""
        self.made.append(Backward(float("nan"), None))
        self.clip, self.clip_given, self.batches = None, None, 0

    # --- data -------------------------------------------------------------------------------------

    def gave(self, loader: Any) -> None:
        """Note that a data loader gave a batch."""
        if loader is not self.loader:
            self.loader, self.batches = loader, 0
        self.batches += 1


def _is_a_call_s(made: Backward) -> bool:
    """Return whether what is sent backward is the loss of one call, or an even part of it."""
    if made.call is None or not made.value:
        return False
    times = [loss / made.value for loss in (made.model_loss, made.formula_loss)]
    return any(math.isfinite(n) and n > 0.5 and abs(n - round(n)) <= EVEN * n for n in times)


def _sent(tensors: Any, modules: list[Any]) -> dict[int, Any]:
    """Return each parameter's gradient of what is sent backward; none where torch refuses that.

    The graph is left for the script's own pass. What runs forward again in it, as reentrant
    checkpointing does, may know ``backward()`` alone.
    """
    import torch

    roots = [tensors] if torch.is_tensor(tensors) else list(tensors)
    every = {id(p): p for one in modules for p in one.parameters() if p.requires_grad}
    if not every or any(root.numel() != 1 for root in roots):
        return {}
    try:
        found = torch.autograd.grad(roots, [*every.values()], retain_graph=True, allow_unused=True)
    except RuntimeError:
        return {}
    there = {key: one for key, one in zip(every, found, strict=True) if one is not None}
    return dict(zip(there, to_host([*there.values()]), strict=True))


def _trains(module: Any) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _copied(value: Any) -> Any:
    """Return a copy of what a module was given: tensors by value, anything else as it is."""
    import torch

    if torch.is_tensor(value):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(one) for one in value)
    return value


def _autocast(module: Any) -> tuple[str, Any] | None:
    import torch

    device = next(module.parameters()).device.type
    if not torch.is_autocast_enabled(device):
        return None
    return device, torch.get_autocast_dtype(device)


def _named(output: Any) -> list[tuple[Any, Tensor]]:
    """Return the tensors of an output, each with the key or number that leads to it."""
    import torch

    if torch.is_tensor(output):
        return [(None, output)]
    if isinstance(output, Mapping):
        pairs = list(output.items())
    elif isinstance(output, tuple | list):
        pairs = list(enumerate(output))
    else:
        pairs = list(getattr(output, "__dict__", {}).items())
    return [(key, value) for key, value in pairs if torch.is_tensor(value)]


def _loss_in(named: list[tuple[Any, Tensor]], output: Any) -> tuple[Any, float]:
    """Return where a loss lies in an output, and its value; NaN if there is none.

    It is called ``loss``, or it is the first thing returned, or the only single number: models that
    return ``logits, loss`` are common.  What it is multiplied by is looked at later, in all passes,
    so that a temperature is not taken for a loss.
    """
    scalars = [(key, value) for key, value in named if value.numel() == 1 and value.requires_grad]
    for key, value in scalars:
        if key in {"loss", 0} or (key is None and value.dim() == 0):
            return ("" if key is None else key), float(value.detach())
    if len(scalars) == 1 and scalars[0][0] is not None and not scalars[0][1].dim():
        return scalars[0][0], float(scalars[0][1].detach())
    return None, float("nan")


def _leads_to(roots: list[Tensor], output: Any) -> bool:
    """Return whether an output lies in the graph of what is sent backward; if unclear, it does."""
    wanted = {tensor.grad_fn for _, tensor in _named(output)} - {None}
    waiting = collections.deque(root.grad_fn for root in roots)
    seen: set[Any] = set()
    while waiting and len(seen) < NODES:
        node = waiting.popleft()
        if node in wanted:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return not wanted or len(seen) >= NODES


def _equal(one: Tensor, other: Tensor) -> bool:
    import torch

    return bool(torch.equal(one.detach().reshape(-1).float(), other.reshape(-1).float()))
