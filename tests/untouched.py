"""Nothing is touched: shown by copies and comparison, without the guard's own code."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy
import torch

from trainsanity.pipeline import Pipeline


@contextlib.contextmanager
def untouched(pipeline: Pipeline) -> Iterator[None]:
    """Everything that a later training could feel is the same afterwards, whatever was raised."""
    before = everything(pipeline)
    try:
        yield
    finally:
        changed = differences(before, everything(pipeline))
        assert not changed, f"changed: {', '.join(changed)}"


def everything(pipeline: Pipeline) -> dict[str, Any]:
    """The whole state by name: tensors as copies of their bits, objects as their plain values."""
    model, trainer = pipeline.model, pipeline.trainer
    owner = pipeline if trainer is None else trainer
    state: dict[str, Any] = {
        **{f"parameter {name}": _bits(p) for name, p in model.named_parameters()},
        **{f"buffer {name}": _bits(b) for name, b in model.named_buffers()},
        **{f"gradient {name}": _bits(p.grad) for name, p in model.named_parameters()},
        "flags": [(m.training, [p.requires_grad for p in m.parameters()]) for m in model.modules()],
        "hooks": [
            [len(getattr(m, kind)) for kind in vars(m) if kind.endswith("_hooks")]
            for m in model.modules()
        ],
        "modules": [(name, id(m)) for name, m in model.named_modules()],
        "optimizer": _plain(_state_dict(owner.optimizer)),
        "what it steps": [
            [id(p) for p in group["params"]]
            for group in getattr(owner.optimizer, "param_groups", ())
        ],
        "scheduler": _plain(_state_dict(owner.lr_scheduler)),
        "python random state": random.getstate(),
        "numpy random state": repr(numpy.random.get_state()),
        "torch random state": _bits(torch.get_rng_state()),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "config": [_plain(m.config.to_dict()) for m in model.modules() if hasattr(m, "config")],
        # The session is what is computed from the pipeline, made when it is first needed.
        "parts": {
            part.name: id(getattr(pipeline, part.name))
            for part in fields(pipeline)
            if part.name != "session"
        },
        "collator": _plain(getattr(pipeline.data_collator, "__dict__", {})),
    }
    if pipeline.tokenizer is not None:
        tokenizer = pipeline.tokenizer
        state["tokenizer"] = (
            tokenizer.special_tokens_map,
            tokenizer.padding_side,
            tokenizer.truncation_side,
            getattr(tokenizer, "chat_template", None),
            len(tokenizer),
        )
        backend = getattr(tokenizer, "backend_tokenizer", None)
        state["backend"] = backend and (_plain(backend.padding), _plain(backend.truncation))
    if trainer is not None:
        state |= {
            "arguments": _plain(vars(trainer.args)),
            "trainer": {name: id(value) for name, value in vars(trainer).items()},
            "trainer's state": repr(trainer.state),
            "control": repr(trainer.control),
            "callbacks": [id(c) for c in trainer.callback_handler.callbacks],
            "output_dir": _files(Path(trainer.args.output_dir)),
        }
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names whose values are not equal, bit for bit."""
    names = {**before, **after}
    return [name for name in names if not _equal(before.get(name), after.get(name))]


def _equal(one: Any, other: Any) -> bool:
    if torch.is_tensor(one) and torch.is_tensor(other):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


def _bits(tensor: Any) -> Any:
    if tensor is None:
        return None
    return tensor.detach().cpu().clone().contiguous().view(-1).view(torch.uint8)


def _state_dict(part: Any) -> Any:
    return None if part is None else part.state_dict()


def _plain(value: Any) -> Any:
    """Values that ``==`` compares: NaN equals NaN, and objects are themselves."""
    match value:
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case torch.Tensor():
            return _bits(value).tolist()
        case None | bool() | int() | str() | bytes():
            return value
        case float():
            return repr(value)
        case _:
            return id(value)


def _files(folder: Path) -> Any:
    if not folder.exists():
        return None
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
