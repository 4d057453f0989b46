"""Nothing is touched: taking the pipeline's state, putting it back, and proving that it is back."""

from __future__ import annotations

import contextlib
import copy
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.host_memory import room_for, to_device, to_host
from trainsanity.isolation.random_states import global_random_states
from trainsanity.isolation.time_limit import held

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@contextlib.contextmanager
def preserved(pipeline: Pipeline, *, weights: bool = False) -> Iterator[None]:
    """Put everything back as it was on the way out, also after an exception.

    Args:
        pipeline: its trainer, model, configs, arguments and the process's random states.
        weights: parameters, gradients and the state of an optimizer that the user built, too.
            On an accelerator their copy is held in host memory.

    Raises:
        Skip: that has no room for it.
    """
    if weights:
        room_for(snapshot_bytes(pipeline))
    undo = [
        global_random_states(),
        _surroundings(),
        *(_attributes(obj) for obj in _objects(pipeline)),
        *map(_backend, _tokenizers(pipeline)),
        _accelerate_globals(),
        _module_states(pipeline.model),
    ]
    if weights:
        undo += [_tensors(pipeline.model.parameters()), _gradients(pipeline.model)]
        undo += _user_optimizer(pipeline)
    undo.append(_tensors(pipeline.model.buffers()))
    with _put_back(undo):
        yield


@contextlib.contextmanager
def restored(objects: Iterable[Any]) -> Iterator[None]:
    """Put back the attributes of these objects and the random states: for many small looks."""
    undo = [
        global_random_states(),
        *(_attributes(obj) for obj in objects if hasattr(obj, "__dict__")),
    ]
    with _put_back(undo):
        yield


@contextlib.contextmanager
def _put_back(undo: list[Callable[[], None]]) -> Iterator[None]:
    """Call all of these at the end, the last one first, whatever one of them raises."""
    try:
        yield
    finally:
        with held(), _uninterrupted(), contextlib.ExitStack() as stack:
            for restore in undo:
                stack.callback(restore)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait: a second one, from an impatient user, would leave half of it undone."""
    handlers: dict[int, Any] = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    # Only the main thread is interrupted, and only it may ask.
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


def _surroundings() -> Any:
    """Working directory and environment variables."""
    here, environment = working_directory(), dict(os.environ)

    def restore() -> None:
        if here is not None and working_directory() != here:
            os.chdir(here)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)

    return restore


def working_directory() -> str | None:
    """Where this process is; None if somebody has removed the folder."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def configs(pipeline: Pipeline) -> list[Any]:
    """Every config and generation config of the model and its parts, once each."""
    found: dict[int, Any] = {}
    for module in pipeline.model.modules():
        for name in ("config", "generation_config"):
            config = getattr(module, name, None)
            if config is not None and id(config) not in found and hasattr(config, "to_dict"):
                found[id(config)] = config
                inner = config.get_text_config() if hasattr(config, "get_text_config") else config
                found[id(inner)] = inner
    return list(found.values())


def _objects(pipeline: Pipeline) -> list[Any]:
    objects = [*configs(pipeline), pipeline.model]
    trainer = pipeline.trainer
    if trainer is not None:
        objects += [
            trainer,
            trainer.args,
            trainer.state,
            trainer.control,
            trainer.callback_handler,
            trainer.accelerator,
        ]
    parts = (pipeline.data_collator, *_tokenizers(pipeline))
    objects += [obj for obj in parts if hasattr(obj, "__dict__")]
    return objects


def _tokenizers(pipeline: Pipeline) -> list[Any]:
    """The pipeline's and the collator's: mostly one."""
    found = (getattr(pipeline.data_collator, "tokenizer", None), pipeline.tokenizer)
    return list({id(one): one for one in found if one is not None}.values())


def _backend(tokenizer: Any) -> Any:
    """Truncation and padding of a fast tokenizer: each call leaves its own, and they are saved."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    before = _backend_settings(tokenizer)

    def restore() -> None:
        if backend is None or _backend_settings(tokenizer) == before:
            return
        backend.no_truncation()
        backend.no_padding()
        truncation, padding = before
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)

    return restore


def _backend_settings(tokenizer: Any) -> tuple[Any, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return getattr(backend, "truncation", None), getattr(backend, "padding", None)


def _attributes(obj: Any) -> Any:
    """Attributes as they are now; plain containers by copy, other objects by reference."""
    before = {name: _copied(value) for name, value in vars(obj).items()}
    references = dict(vars(obj))

    def restore() -> None:
        now = vars(obj)
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in references.items():
            now[name] = value
            if before[name] is not value:
                _refill(value, before[name])

    return restore


def _copied(value: Any) -> Any:
    return copy.copy(value) if type(value) in (list, dict, set) else value


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, list):
        container[:] = before
    else:
        container.clear()
        container.update(before)


def _accelerate_globals() -> Any:
    from accelerate.state import GradientState

    shared = GradientState._shared_state
    before = {name: _copied(value) for name, value in shared.items()}

    def restore() -> None:
        shared.clear()
        shared.update(before)

    return restore


def _module_states(model: Any) -> Any:
    flags = [(module, module.training) for module in model.modules()]
    hooks = [
        (hooks, dict(hooks))
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    ]

    def restore() -> None:
        for module, training in flags:
            module.training = training
        for registered, before in hooks:
            if len(registered) != len(before):
                registered.clear()
                registered.update(before)

    return restore


def _tensors(tensors: Iterable[Any]) -> Any:
    import torch

    originals = list(tensors)
    copies = to_host(originals)

    def restore() -> None:
        with torch.no_grad():
            to_device(copies, originals)

    return restore


def _gradients(model: Any) -> Any:
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


def _optimizer(pipeline: Pipeline) -> list[Any]:
    """Optimizer and scheduler that the user built, the Trainer's or the loop's."""
    owner = pipeline if pipeline.trainer is None else pipeline.trainer
    return [owner.optimizer, owner.lr_scheduler]


def _user_optimizer(pipeline: Pipeline) -> list[Any]:
    undo = []
    for part in _optimizer(pipeline):
        if part is None:
            continue
        try:
            state = copy.deepcopy(part.state_dict())
        except RuntimeError:
            # ZeroRedundancyOptimizer shows its state after it was gathered; its own part is here.
            part = getattr(part, "optim", part)
            state = copy.deepcopy(part.state_dict())
        undo.append(lambda part=part, state=state: part.load_state_dict(state))
    return undo


def snapshot_bytes(pipeline: Pipeline) -> int:
    """Bytes that :func:`preserved` holds in host memory with ``weights=True``."""
    model = pipeline.model
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += _optimizer_tensors(_optimizer(pipeline)[0])
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _optimizer_tensors(optimizer: Any) -> list[Any]:
    import torch

    states = optimizer.state.values() if optimizer is not None else ()
    return [value for state in states for value in state.values() if torch.is_tensor(value)]
