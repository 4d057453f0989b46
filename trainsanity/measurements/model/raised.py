"""The model asked in float32, whatever it is trained in: weights are raised, and put back.

What lies outside of repeated blocks is raised once, each block when it is entered and back when it
is left, so that at most one block is there twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from trainsanity.errors import first_line
from trainsanity.isolation.compiled import not_compiled
from trainsanity.isolation.shards import computed_in_parts, engine_hooks_off, in_parts, is_sharded
from trainsanity.maths.tolerances import shaken
from trainsanity.measurements.model.forward import as_trained
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.measurements.model.raiser import SINGLE, Raiser

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

T = TypeVar("T")

Way = Literal["blocks", "whole", "trained"]
"""Raised block by block, raised as a whole, or asked in the dtype that is trained."""


@dataclass(frozen=True)
class Precision:
    """How the model was asked.

    Attributes:
        way: what was raised.
        dtype: the lowest that was seen between blocks and in the outputs (``torch.dtype``).
        why: why it is not float32; empty where it is.
        trained: whether the arithmetic is that of training, so that answers to the same question
            need not be asked for again.
    """

    way: Way
    dtype: Any
    why: str = ""
    trained: bool = True

    def __str__(self) -> str:
        """Return a suffix for a message, empty for float32."""
        name = str(self.dtype).removeprefix("torch.")
        return f"; asked in {name}: {self.why}" if self.why else ""


@dataclass
class Asked:
    """The model while it is asked.

    Attributes:
        way: as in :class:`Precision`.
        why: as in :class:`Precision`.
        trained: as in :class:`Precision`.
        lowest: the lowest floating dtype seen so far.
        raiser: what stands in for the weights; None where they are the model's own.
        small: the model's small parameters, which can be moved in their place.
    """

    way: Way
    why: str
    trained: bool
    lowest: Any
    raiser: Raiser | None = None
    small: Sequence[Any] = ()

    @property
    def precision(self) -> Precision:
        """Return how the model was asked up to now."""
        import torch

        why = self.why
        if not why and self.lowest.itemsize < torch.float32.itemsize:
            why = "the model itself rounds to it"
        return Precision(self.way, self.lowest, why, self.trained)

    def roundings(self, effect: float, size: float) -> float:
        """Return what a pass's roundings make of the outputs, from what nudged weights make.

        Args:
            effect: largest difference of the outputs under :meth:`nudged`.
            size: largest absolute value of the outputs.
        """
        return shaken(self.precision.dtype, effect, self.raiser.longest if self.raiser else 1, size)

    @contextlib.contextmanager
    def nudged(self) -> Iterator[bool]:
        """Move every weight by one unit in its last place; yield whether that was possible.

        Weights that cannot be raised, as those of 4 bits, stay; the norms and biases beside them
        are moved by a unit of the dtype that is computed in, so that each layer rounds otherwise.
        """
        if self.raiser is None:
            coarse = self.lowest.itemsize < SINGLE and bool(self.small)
            with moved(self.small, self.lowest) if coarse else contextlib.nullcontext():
                yield coarse
            return
        with self.raiser.nudged():
            yield True


def in_float32(pipeline: Pipeline, ask: Callable[[Asked], T]) -> T:
    """Return what ``ask`` finds with the model in float32, or as trained where that cannot be had.

    The model is in evaluation mode, without gradients, unwrapped, not compiled, and out of autocast
    and TF32.  A model that reads the weights of a block, or their dtype, from outside of it is
    raised as a whole if it fits.

    Args:
        pipeline: whose model is asked.
        ask: asks it; called once more for each way that did not go.
    """
    import torch

    why = cannot_be_raised(pipeline.model)
    ways: tuple[Way, ...] = () if why else ("blocks", "whole")
    if in_parts(pipeline.model):  # whole, they may be larger than the device
        ways = ways[:1]
    for way in ways:
        one: Asked | None = None
        try:
            if way == "whole" and not _fits(pipeline.model):
                why = "the weights do not fit into memory a second time in float32"
                break
            with asked(pipeline, way) as one:
                found = ask(one)
            if way == "whole" or one.lowest.itemsize >= SINGLE:
                return found
            why = f"the model rounds to {one.lowest} between its blocks"
        except torch.OutOfMemoryError:
            why = "the model does not fit into memory in float32"
        except Exception as error:
            if one is None or one.trained:  # nothing was raised
                raise
            why = f"the model does not take float32: {type(error).__name__}: {first_line(error)}"
    with asked(pipeline, "trained", why) as one:
        return ask(one)


SMALL = 1 << 20
"""Elements of a parameter that is moved in its place: norms, biases, adapters."""


@contextlib.contextmanager
def moved(parameters: Sequence[Any], dtype: Any) -> Iterator[None]:
    """Have parameters a unit of a dtype higher and lower by turns, relative; they are put back."""
    import torch

    held = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        try:
            for p in parameters:
                turns = torch.arange(p.numel(), device=p.device).view(p.shape) % 2 * 2 - 1
                p.mul_((1 + torch.finfo(dtype).eps * turns).to(p))
            yield
        finally:
            for p, before in zip(parameters, held, strict=True):
                p.copy_(before)


@contextlib.contextmanager
def asked(pipeline: Pipeline, way: Way, why: str = "") -> Iterator[Asked]:
    """Have the model ready to be asked one way; everything is put back at the end of the block."""
    import torch

    model = pipeline.model
    if way == "trained":
        with as_trained(pipeline):
            plain = (p for p in model.parameters() if type(p.detach()) is torch.Tensor)
            small = [p for p in plain if p.is_floating_point() and p.numel() <= SMALL]
            yield Asked(way, why, True, _trained_dtype(pipeline), small=small)
        return
    with as_trained(pipeline, autocast=False, gathers=False), contextlib.ExitStack() as stack:
        raiser = Raiser(model, whole=way == "whole")
        mixed = getattr(getattr(pipeline.trainer, "accelerator", None), "mixed_precision", "no")
        one = Asked(way, "", True, torch.float32, raiser)
        one.trained = not raiser.lowers and mixed in (None, "no", "") and not _reduced()
        if pipeline.dtype.itemsize > SINGLE:
            one.lowest = pipeline.dtype
        stack.enter_context(torch.autocast(_kind(model), enabled=False))
        contexts = (_unwrapped_forward(model), _full_precision(), not_compiled())
        for context in (*contexts, engine_hooks_off(model)):
            stack.enter_context(context)
        stack.enter_context(raiser.raised())
        if not one.trained:
            stack.enter_context(_watched(model, raiser, one))
        yield one


def cannot_be_raised(model: Any) -> str:
    """Return why float32 copies cannot stand in for the weights; empty if they can."""
    import torch

    if why := not_in_memory(model):
        return why
    tensors = [*model.parameters(), *model.buffers()]
    if hasattr(model, "_fsdp_wrapped_module"):
        return "the weights are sharded over processes"
    if computed_in_parts(model):
        return "tensor parallelism computes with parts of the weights"
    kept = (one for one in tensors if not is_sharded(one))
    odd = next((one for one in kept if type(one.detach()) is not torch.Tensor), None)
    return f"weights of type {type(odd).__name__} are no plain tensors" if odd is not None else ""


@contextlib.contextmanager
def _watched(model: Any, raiser: Raiser, one: Asked) -> Iterator[None]:
    """Give the model float32 inputs, and note the lowest dtype at its blocks and its end."""
    import torch

    def raise_inputs(_: Any, args: Any, named: Any) -> Any:
        return tuple(map(_in_float32, args)), {k: _in_float32(v) for k, v in named.items()}

    def note(values: Iterable[Any]) -> None:
        for value in values:
            if torch.is_tensor(value) and value.is_floating_point():
                one.lowest = min(one.lowest, value.dtype, key=lambda dtype: dtype.itemsize)

    def at_entry(_: Any, args: Any, named: Any) -> None:
        note((*args, *named.values()))

    def at_end(_module: Any, _args: Any, output: Any) -> None:
        values = output.values() if isinstance(output, dict) else output
        note(values if isinstance(values, (tuple, list)) or isinstance(output, dict) else [output])

    handles = [
        model.register_forward_pre_hook(raise_inputs, with_kwargs=True),
        model.register_forward_hook(at_end),
        *(m.register_forward_pre_hook(at_entry, with_kwargs=True) for m in raiser.repeated),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_float32(value: Any) -> Any:
    import torch

    low = torch.is_tensor(value) and value.is_floating_point() and value.dtype.itemsize < SINGLE
    return value.float() if low else value


@contextlib.contextmanager
def _unwrapped_forward(model: Any) -> Iterator[None]:
    """Call the forward that accelerate has wrapped in its autocast, which no other one ends."""
    own = vars(model)
    inner = own.get("_original_forward")
    if inner is None or "forward" not in own:
        yield
        return
    wrapped, own["forward"] = own["forward"], inner
    try:
        yield
    finally:
        own["forward"] = wrapped


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Switch TF32 off."""
    before = [(place, name, getattr(place, name)) for place, name in _switches()]
    try:
        for place, name, value in before:
            setattr(place, name, "ieee" if isinstance(value, str) else False)
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Return where torch keeps whether float32 is multiplied in TF32; none without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    # Since 2.9; reading the older names after these were set raises.
    if hasattr(matmul, "fp32_precision") and hasattr(cudnn, "conv"):
        return [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision")]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]


def _reduced() -> bool:
    """Return whether the pipeline multiplies float32 in TF32."""
    return any(getattr(place, name) in (True, "tf32") for place, name in _switches())


def _kind(model: Any) -> str:
    """Return the type of the device that computes; an offloaded parameter has none."""
    return next((p.device.type for p in model.parameters() if not p.is_meta), "cpu")


def _trained_dtype(pipeline: Pipeline) -> Any:
    import torch

    kind = _kind(pipeline.model)
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else pipeline.dtype


def _fits(model: Any) -> bool:
    """Return whether all weights below float32 fit into memory beside themselves."""
    import psutil
    import torch

    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    low = [t for t in tensors.values() if t.is_floating_point() and t.dtype.itemsize < SINGLE]
    needed = sum(tensor.numel() for tensor in low) * SINGLE
    if low and low[0].device.type == "cuda":
        device = low[0].device
        free = torch.cuda.mem_get_info(device)[0]
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return bool(needed < free + kept)
    return bool(needed < psutil.virtual_memory().available)
