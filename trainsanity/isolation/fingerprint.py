"""Prove that a measurement left the pipeline as it was."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.hashing import Known, hashes
from trainsanity.isolation.snapshot import (
    _backend_settings,
    _optimizer,
    _optimizer_tensors,
    _tokenizers,
    configs,
    working_directory,
)

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class StateChanged(RuntimeError):
    """A look left the pipeline other than it was."""


@contextlib.contextmanager
def guarded(pipeline: Pipeline, who: str, known: Known) -> Iterator[None]:
    """Compare fingerprints around a look, also around one that raises.

    Raises:
        StateChanged: something differs afterwards; the text names what.  To Ctrl-C and the like,
            which have to get through, the sentence is added as a note.
    """
    # The weights need not be read twice between two looks, where nothing but us runs; what a look
    # itself did to them is read in full, since ``.data`` is written to without being counted.
    before = fingerprint(pipeline, known)
    try:
        yield
    except BaseException as error:
        changed = _changed(pipeline, before, who, known)
        if changed and isinstance(error, Exception):
            raise StateChanged(f"{changed}, and raised {type(error).__name__}: {error}") from error
        if changed:
            error.add_note(changed)
        raise
    if changed := _changed(pipeline, before, who, known):
        raise StateChanged(changed)


def _changed(pipeline: Pipeline, before: dict[str, Any], who: str, known: Known) -> str:
    known.clear()
    after = fingerprint(pipeline, known)
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
    named = dict(model.named_parameters())
    parameters = [*named.values()]
    # By name: a parametrisation that is taken off again puts its parameter last.
    prints: dict[str, Any] = {
        "weights": dict(zip(named, hashes(parameters, known), strict=True)),
        "buffers": hashes(model.buffers(), known),
        "gradients": dict(zip(named, hashes((p.grad for p in parameters), known), strict=True)),
        "train/eval flags": [m.training for m in model.modules()],
        "frozen parameters": {name: p.requires_grad for name, p in named.items()},
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
