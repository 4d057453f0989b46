"""Save a pipeline's state and restore it after a measurement."""

from __future__ import annotations

import collections
import contextlib
import copy
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.host_memory import room_for, to_device, to_host
from trainsanity.isolation.large import Large
from trainsanity.isolation.overrides import written_by_modes
from trainsanity.isolation.parts import (
    backend_settings,
    configs,
    optimizer_and_scheduler,
    optimizer_tensors,
    tokenizers,
    working_directory,
)
from trainsanity.isolation.process_settings import process_settings, signals_kept
from trainsanity.isolation.random_states import global_random_states
from trainsanity.isolation.rewind import Rewind
from trainsanity.isolation.shards import is_sharded, local, resharded
from trainsanity.isolation.time_limit import deferred

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

Undo = Callable[[], None]
"""Restores one part of the state."""


@contextlib.contextmanager
def preserved(pipeline: Pipeline, *, weights: bool = False) -> Iterator[None]:
    """Restore the pipeline's state at the end of the block, also after an exception.

    Args:
        pipeline: its trainer, model, configs, arguments and the process's random states.
        weights: whether parameters, gradients and the state of an optimizer that the user built
            are restored, too.  Those of an accelerator are copied to host memory.  Where the
            model's own train() or eval() writes to weights, they always are.

    Raises:
        Skip: host memory has no room for the copy.
    """
    weights = weights or bool(written_by_modes(pipeline.model))
    if weights:
        room_for(snapshot_bytes(pipeline))
    undo: list[Undo] = [
        global_random_states(),
        _surroundings(),
        process_settings(),
        reachable_state(pipeline),
        *map(_backend, tokenizers(pipeline)),
        _accelerate_globals(),
        _modes(pipeline.model),
    ]
    if weights:
        undo += [_tensors(pipeline.model.parameters()), _gradients(pipeline.model)]
        undo.append(_tensors(optimizer_tensors(optimizer_and_scheduler(pipeline)[0])))
    undo.append(_tensors(pipeline.model.buffers()))
    undo.append(lambda: resharded(pipeline.model))
    with signals_kept(), put_back(undo):
        yield


@contextlib.contextmanager
def restored(objects: Iterable[Any]) -> Iterator[None]:
    """Restore these objects' attributes and the random states: cheap enough for every row."""
    undo: list[Undo] = [
        global_random_states(),
        *(_attributes(obj) for obj in objects if hasattr(obj, "__dict__")),
    ]
    with put_back(undo):
        yield


@contextlib.contextmanager
def put_back(undo: list[Undo]) -> Iterator[None]:
    """Call every undo step at the end, the last one first, whatever one of them raises."""
    try:
        yield
    finally:
        with deferred(), _uninterrupted(), contextlib.ExitStack() as stack:
            for restore in undo:
                stack.callback(restore)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM to the end of the block, so that restoring is never cut short."""
    handlers: dict[int, Any] = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    # Signals reach the main thread only, and only it may set handlers.
    if threading.current_thread() is not threading.main_thread() or not handlers:
        yield
        return
    waiting: list[tuple[int, Any]] = []
    for number in handlers:
        signal.signal(number, lambda number, frame: waiting.append((number, frame)))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if waiting:
            number, frame = waiting[0]
            handlers[number](number, frame)


def _surroundings() -> Undo:
    """Return the undo step of working directory and environment variables."""
    here, environment = working_directory(), dict(os.environ)

    def restore() -> None:
        if here is not None and working_directory() != here:
            os.chdir(here)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)

    return restore


_large: weakref.WeakKeyDictionary[Any, Large] = weakref.WeakKeyDictionary()
"""Copies of each pipeline's vocabulary and the like, from one walk to the next."""


def reachable_state(pipeline: Pipeline) -> Undo:
    """Return the undo step of all that the pipeline's parts hold, besides the model's tensors.

    Its objects keep their attributes, containers, counters, generators and tensors; what could not
    be put back is noted on the pipeline.
    """
    model = pipeline.model
    optimizer, scheduler = optimizer_and_scheduler(pipeline)
    tensors = [*model.parameters(), *model.buffers(), *optimizer_tensors(optimizer)]
    parts = {
        "configs": configs(pipeline),
        "model": model,
        "train_dataset": pipeline.train_dataset,
        "eval_dataset": pipeline.eval_dataset,
        "data_collator": pipeline.data_collator,
        "tokenizer": pipeline.tokenizer,
        "optimizer": optimizer,
        "lr_scheduler": scheduler,
        "train_step": pipeline.train_step,
        "trainer": pipeline.trainer,
    }
    # A script's loop may step several optimizers of one model.
    for k, part in enumerate(getattr(optimizer, "parts", ()), 1):
        parts[f"optimizer {k}"] = part
    # The last is walked first, and so names what it holds.
    noted = _noted(pipeline, [*reversed(parts.items())], {id(tensor) for tensor in tensors})

    def restore() -> None:
        for sentence in noted.restore():
            if sentence not in pipeline.unrestored:
                pipeline.unrestored.append(sentence)

    return restore


WALKS = 2
"""Walks that are kept: of the pipeline as it is between two measurements, and within one."""


def _noted(pipeline: Pipeline, parts: list[tuple[str, Any]], elsewhere: set[int]) -> Rewind:
    """Note what the parts hold, by an earlier walk where it would be the same again."""
    for walk in pipeline.walks:
        if (renewed := walk.renewed(parts, elsewhere)) is not None:
            return renewed
    made = Rewind(parts, elsewhere, large=_large.setdefault(pipeline, Large()))
    pipeline.walks[:] = [made.forget(), *pipeline.walks][:WALKS]
    return made


def _backend(tokenizer: Any) -> Undo:
    """Return the undo step of a fast tokenizer's truncation and padding.

    Each call of a tokenizer leaves its own there, and ``save_pretrained`` writes them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    before = backend_settings(tokenizer)

    def restore() -> None:
        if backend is None or backend_settings(tokenizer) == before:
            return
        backend.no_truncation()
        backend.no_padding()
        truncation, padding = before
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)

    return restore


def _attributes(obj: Any) -> Undo:
    """Return the undo step of an object's attributes.

    Plain containers are refilled from a copy, other objects are restored by reference.
    """
    attributes = vars(obj)
    (_, before), *inner = _copies(attributes)

    def restore() -> None:
        # Never empty, as a container is for a moment: other threads may look at the object.
        for name in [name for name in attributes if name not in before]:
            del attributes[name]
        attributes.update(before)
        for container, held in inner:
            _refill(container, held)

    return restore


CONTAINERS = frozenset({list, dict, set, collections.defaultdict, collections.deque})


def _copies(container: Any, above: tuple[int, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Yield a container with its copy, and so each that a dictionary holds, as TRL's metrics.

    A copy holds the same objects: nested containers keep their identity and are refilled by their
    own copy.  A tokenizer's vocabulary has 150,000 entries, so nothing is called for each.
    """
    yield container, copy.copy(container)
    if isinstance(container, dict) and not CONTAINERS.isdisjoint(map(type, container.values())):
        for one in container.values():
            if type(one) in CONTAINERS and id(one) not in above:
                yield from _copies(one, (*above, id(container)))


def _refill(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(container, (list, collections.deque)):
        container.extend(before)
    else:
        container.update(before)


def _accelerate_globals() -> Undo:
    from accelerate.state import GradientState

    shared = GradientState._shared_state
    before = [*_copies(shared)]

    def restore() -> None:
        for container, held in before:
            _refill(container, held)

    return restore


def _modes(model: Any) -> Undo:
    """Return the undo step of the classes of modules, and of what is trainable.

    A ``train()`` of the user's own may freeze stages; a parametrisation gives a module a class of
    its own.
    """
    classes = [(module, type(module)) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]

    def restore() -> None:
        for module, cls in classes:
            if type(module) is not cls:
                module.__class__ = cls
        for parameter, trains in trainable:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)

    return restore


def _tensors(tensors: Iterable[Any]) -> Undo:
    import torch

    originals = list(tensors)
    copies = to_host(originals)
    # model.to(another dtype) gives a parameter another tensor, and leaves this one as it was.
    plain = [(one, one.data, one.dtype) for one in originals if not is_sharded(one)]

    def restore() -> None:
        with torch.no_grad():
            for one, data, dtype in plain:
                if one.dtype != dtype:
                    one.data = data
            to_device(copies, originals)

    return restore


def _gradients(model: Any) -> Undo:
    import torch

    # A gradient that is None stays None; one that exists keeps its identity and its values.
    before = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]

    def restore() -> None:
        with torch.no_grad():
            for parameter, gradient, values in before:
                parameter.grad = gradient
                if gradient is not None:
                    gradient.copy_(values)

    return restore


def snapshot_bytes(pipeline: Pipeline) -> int:
    """Return the bytes that :func:`preserved` copies with ``weights=True``."""
    model = pipeline.model
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += optimizer_tensors(optimizer_and_scheduler(pipeline)[0])
    return sum(local(tensor).numel() * tensor.element_size() for tensor in tensors)
