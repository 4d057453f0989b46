"""Nothing is touched: taking the pipeline's state, putting it back, and proving that it is back."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..limits import held
from .hashing import Known, hashes
from .host import room_for, to_device, to_host

if TYPE_CHECKING:
    from ..pipeline import Pipeline


class StateChanged(RuntimeError):
    """A look left the pipeline other than it was."""


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
        _rng_states(),
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
    undo = [_rng_states(), *(_attributes(obj) for obj in objects if hasattr(obj, "__dict__"))]
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


def random_states(owner: Any = None) -> Any:
    """A function that puts the random states back: the global ones, and those of an object's own.

    An owner's generator that does not exist yet is put back by forgetting it.
    """
    shared = _rng_states()
    before = {name: copy.deepcopy(value) for name, value in _generators(owner).items()}
    absent = {name for name, value in getattr(owner, "__dict__", {}).items() if value is None}

    def restore() -> None:
        shared()
        for name in _generators(owner):
            if name in before:
                setattr(owner, name, copy.deepcopy(before[name]))
            elif name in absent:
                setattr(owner, name, None)

    return restore


def _generators(owner: Any) -> dict[str, Any]:
    import numpy
    import torch

    kinds = (random.Random, numpy.random.Generator, numpy.random.RandomState, torch.Generator)
    attributes = getattr(owner, "__dict__", {})
    return {name: value for name, value in attributes.items() if isinstance(value, kinds)}


def _rng_states() -> Any:
    import numpy
    import torch

    python, np, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        random.setstate(python)
        numpy.random.set_state(np)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore


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


@contextlib.contextmanager
def guarded(pipeline: Pipeline, who: str) -> Iterator[None]:
    """Compare fingerprints around a look, also around one that raises.

    Raises:
        StateChanged: something differs afterwards; the text names what.  To Ctrl-C and the like,
            which have to get through, the sentence is added as a note.
    """
    # The weights need not be read twice between two looks, where nothing but us runs; what a look
    # itself did to them is read in full, since ``.data`` is written to without being counted.
    before = fingerprint(pipeline, pipeline.known_hashes)
    try:
        yield
    except BaseException as error:
        changed = _changed(pipeline, before, who)
        if changed and isinstance(error, Exception):
            raise StateChanged(f"{changed}, and raised {type(error).__name__}: {error}") from error
        if changed:
            error.add_note(changed)
        raise
    if changed := _changed(pipeline, before, who):
        raise StateChanged(changed)


def _changed(pipeline: Pipeline, before: dict[str, Any], who: str) -> str:
    pipeline.known_hashes.clear()
    after = fingerprint(pipeline, pipeline.known_hashes)
    changed = [name for name, value in after.items() if before.get(name) != value]
    return f"{who} changed the pipeline's {', '.join(changed)}" if changed else ""


def fingerprint(pipeline: Pipeline, known: Known | None = None) -> dict[str, Any]:
    """What must be equal before and after a look, by name; tensors as hashes of their bits.

    Args:
        pipeline: what is looked at.
        known: hashes that need not be computed again, see :func:`hashes`.
    """
    import numpy
    import torch

    model, trainer = pipeline.model, pipeline.trainer
    # A walk through a large model takes milliseconds, and there are two for each look.
    parameters = [*model.parameters()]
    prints: dict[str, Any] = {
        "weights": hashes(parameters, known),
        "buffers": hashes(model.buffers(), known),
        "gradients": hashes((p.grad for p in parameters), known),
        "train/eval flags": [m.training for m in model.modules()],
        "frozen parameters": [p.requires_grad for p in parameters],
        "config": [repr(sorted(vars(c).items(), key=lambda kv: kv[0])) for c in configs(pipeline)],
        "python random state": hash(random.getstate()),
        "numpy random state": _words(numpy.random.get_state()),
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "working directory": working_directory(),
        "environment variables": dict(os.environ),
    }
    if torch.cuda.is_initialized():
        prints["cuda random state"] = [
            state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()
        ]
    optimizer, scheduler = _optimizer(pipeline)
    prints["optimizer"] = hashes(_optimizer_tensors(optimizer), known)
    prints["optimizer's groups"] = [
        {name: value for name, value in group.items() if name != "params"}
        for group in getattr(optimizer, "param_groups", ())
    ]
    prints["scheduler"] = repr(getattr(scheduler, "state_dict", lambda: None)())
    if trainer is not None:
        prints["output_dir"] = _files(trainer.args.output_dir)
        prints["trainer's state"] = repr(trainer.state)
        prints["training arguments"] = repr(sorted(vars(trainer.args).items(), key=lambda i: i[0]))
        prints["trainer"] = {name: id(value) for name, value in vars(trainer).items()}
        prints["callbacks"] = [id(c) for c in trainer.callback_handler.callbacks]
    prints["tokenizer"] = [
        (getattr(one, "padding_side", None), getattr(one, "special_tokens_map", None),
         _backend_settings(one))
        for one in _tokenizers(pipeline)
    ]  # fmt: skip
    return prints


def _files(output_dir: str | None) -> list[Any]:
    """What lies in the folder, by name, with size and time of the last change."""
    here = Path(working_directory() or "/")
    folder = here / (output_dir or "tmp_trainer")
    # A folder that the whole project lies in is everybody's: logs and caches appear by themselves.
    if not folder.is_dir() or folder.resolve() in (here, *here.parents):
        return [folder.is_dir()]
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    return sorted((name, told.st_size, told.st_mtime_ns) for name, told in listed)


def _words(numpy_state: Any) -> tuple[Any, ...]:
    """Kind, key, position in it, and the normal number that is kept for the next draw."""
    kind, key, *rest = numpy_state
    return (kind, key.tobytes(), *rest)


def _optimizer_tensors(optimizer: Any) -> list[Any]:
    import torch

    states = optimizer.state.values() if optimizer is not None else ()
    return [value for state in states for value in state.values() if torch.is_tensor(value)]
