"""Verify that a measurement left the pipeline as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.files_written import written_files_named
from trainsanity.isolation.hashing import Known, hashes
from trainsanity.isolation.parts import (
    backend_settings,
    configs,
    optimizer_and_scheduler,
    optimizer_tensors,
    tokenizers,
    working_directory,
)
from trainsanity.isolation.process_settings import process_settings, signals_kept
from trainsanity.isolation.random_states import random_hashes
from trainsanity.isolation.shards import resharded
from trainsanity.isolation.snapshot import put_back, reachable_state

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


class StateChanged(RuntimeError):
    """A measurement changed the pipeline."""


@contextlib.contextmanager
def guarded(pipeline: Pipeline, who: str, known: Known) -> Iterator[None]:
    """Compare the pipeline's fingerprints before and after the block, also if it raises.

    What its objects hold besides is put back: a dataset's generator, a collator's counter.

    Raises:
        StateChanged: they differ; the text names what.  Ctrl-C and the like pass through, with
            that sentence as a note.
    """
    # Only our own code runs between two measurements, so the hashes after one serve as those before
    # the next.  After a measurement all are computed, because writing to ``.data`` is not counted.
    before = fingerprint(pipeline, known)
    undo = [process_settings(), reachable_state(pipeline), lambda: resharded(pipeline.model)]
    with signals_kept(), put_back(undo):
        try:
            with written_files_named(pipeline.unrestored):
                yield
        except BaseException as error:
            changed = _changed(pipeline, before, who, known)
            if changed and isinstance(error, Exception):
                raised = f"{changed}, and raised {type(error).__name__}: {error}"
                raise StateChanged(raised) from error
            if changed:
                error.add_note(changed)
            raise
        if changed := _changed(pipeline, before, who, known):
            raise StateChanged(changed)


def _changed(pipeline: Pipeline, before: dict[str, Any], who: str, known: Known) -> str:
    known.clear()
    resharded(pipeline.model)
    after = fingerprint(pipeline, known)
    changed = [name for name, value in after.items() if before.get(name) != value]
    return f"{who} changed the pipeline's {', '.join(changed)}" if changed else ""


def fingerprint(pipeline: Pipeline, known: Known | None = None) -> dict[str, Any]:
    """Return what must be equal before and after a measurement, by name; tensors as hashes.

    Args:
        pipeline: what is fingerprinted.
        known: hashes that need not be computed again, see :func:`hashes`.
    """
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
        **{f"{name} random state": state for name, state in random_hashes().items()},
        "working directory": working_directory(),
        "environment variables": dict(os.environ),
    }
    optimizer, scheduler = optimizer_and_scheduler(pipeline)
    prints["optimizer"] = hashes(optimizer_tensors(optimizer), known)
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
         backend_settings(one))
        for one in tokenizers(pipeline)
    ]  # fmt: skip
    return prints


SAVED = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", "config.json", "index.json",
    "trainer_state.json", "tokenizer.json", "special_tokens_map.json", "vocab.json",
)  # fmt: skip
"""Ends of the names of what a Trainer saves.  Logs, caches and metrics are for others to write: to
handlers of the user's own, to another run in the same folder."""


def _files(output_dir: str | None) -> list[Any]:
    """List what a Trainer may have saved in the output folder, with size and last change."""
    here = Path(working_directory() or "/")
    folder = here / (output_dir or "tmp_trainer")
    listed = []
    # Another run may remove the folder meanwhile, if it is empty.
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            saved = entry.name.endswith(SAVED) or entry.name.startswith("checkpoint-")
            # Other programs write into a folder that holds the whole project.
            if saved and folder.resolve() not in (here, *here.parents):
                stat = entry.stat(follow_symlinks=False)
                listed.append((entry.name, stat.st_size, stat.st_mtime_ns))
    return sorted(listed)
