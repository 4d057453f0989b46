"""Weights that the Trainer saves, and loads again by its own path."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.runs.trace import no_bars
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST_BYTES = 1 << 28
"""Weights that are written and read within a second or so.  Larger ones belong to the checks that
save and resume a run, at their cost."""

AWAY = 1.0
"""Added to each weight before it is loaded, so that one that is not loaded keeps the difference."""


@dataclass
class Reloaded:
    """Trainable parameters that came back, and the contents of the folder.

    Attributes:
        error: what ``save_model`` raised; empty if it went through.
        shared: names of parameters that share their memory, where it raised.
        loading_error: what loading raised.
        parameters: how many tensors were saved and moved.
        left: names of those that kept other values than the saved ones.
        statistics: all of these are kept beside parameters, and are none.
        path: the Trainer's method that loaded them.
        best: it is that of ``load_best_model_at_end``.
        files: names in the folder.
        unread: how many parameters ``from_pretrained`` does not find either, where nothing came
            back.
        prefix: what stands before the model's own name in each name of the file; empty if that is
            not all that they differ in.
    """

    error: str = ""
    shared: list[str] = field(default_factory=list)
    loading_error: str = ""
    parameters: int = 0
    left: list[str] = field(default_factory=list)
    statistics: bool = False
    path: str = ""
    best: bool = False
    files: list[str] = field(default_factory=list)
    unread: int = 0
    prefix: str = ""


@measurement(Cost.STEP)
def reloaded(pipeline: Pipeline) -> Reloaded:
    """Save the model, move its trainable weights away, and load them by the Trainer's own path.

    Raises:
        Skip: nothing is saved in this run, or the model is too large for it.
    """
    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop saves in its own way")
    if pipeline.other_processes:
        raise Skip("saving by several processes is judged by the checks of whole runs")
    refuse_sharded(pipeline)
    args = trainer.args
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        raise Skip("save_strategy is no: no checkpoint is loaded again")
    size = sum(p.numel() * p.element_size() for p in pipeline.model.parameters())
    if size > MOST_BYTES:
        raise Skip(
            f"{size / 1e9:.1f} GB of weights: loop.save_load_equal and loop.resume_equals_straight "
            "save and load them"
        )
    seen = Reloaded(best=bool(args.load_best_model_at_end))
    seen.path = "_load_best_model" if seen.best else "_load_from_checkpoint"
    with scratch() as folder, preserved(pipeline, weights=True), quiet(pipeline), no_bars():
        args.push_to_hub = False
        for buffer in _statistics(trainer.model).values():
            buffer.add_(AWAY)  # as they begin, a new model has them, too
        try:
            trainer.save_model(folder)
        except Exception as error:
            seen.error = f"{type(error).__name__}: {first_line(error)}"
            seen.shared = _shared(pipeline.model)
            return seen
        seen.files = sorted(p.name for p in Path(folder).rglob("*") if p.is_file())
        _load(trainer, folder, seen)
        if seen.parameters and len(seen.left) == seen.parameters:
            _load_as_others_do(trainer.model, Path(folder), seen)
    return seen


def _load(trainer: Any, folder: str, seen: Reloaded) -> None:
    import torch

    trained = _trained(trainer.model)
    saved = {name: p.detach().clone() for name, p in trained.items()}
    seen.parameters = len(trained)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(AWAY)
    try:
        if seen.best:
            trainer.state.best_model_checkpoint = folder
            trainer._load_best_model()
        else:
            trainer._load_from_checkpoint(folder)
    except Exception as error:
        seen.loading_error = f"{type(error).__name__}: {first_line(error)}"
        return
    now = {**dict(trainer.model.named_parameters()), **dict(trainer.model.named_buffers())}
    beside = _statistics(trainer.model)
    # A checkpoint may be written in a coarser dtype: it has come back if it is nearer than that.
    seen.left = [
        name
        for name, values in saved.items()
        if name not in now or bool(((now[name] - values).abs() > AWAY / 2).any())
    ]
    seen.statistics = bool(seen.left) and all(name in beside for name in seen.left)


def _trained(model: Any) -> dict[str, Any]:
    """Return what training changes: trainable parameters, and the statistics kept beside such."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad} | _statistics(model)


def _statistics(model: Any) -> dict[str, Any]:
    """Return the numbers that modules with trainable parameters keep and save beside these."""
    saved = model.state_dict(keep_vars=True)
    modules = [
        (place, one)
        for place, one in model.named_modules()
        if any(p.requires_grad for p in one.parameters(recurse=False))
    ]
    return {
        name: buffer
        for place, one in modules
        for name, buffer in one.named_buffers(place, recurse=False)
        if name in saved and buffer.is_floating_point()
    }


def _load_as_others_do(model: Any, folder: Path, seen: Reloaded) -> None:
    """Note what ``from_pretrained`` does not find in the folder, and by what the names differ."""
    from safetensors import safe_open
    from transformers import PreTrainedModel

    files = sorted(folder.glob("*.safetensors"))
    if not isinstance(model, PreTrainedModel) or not files:
        return
    factory: Any = type(model)
    with contextlib.suppress(Exception):  # another file format, or a constructor of its own
        _, info = factory.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        seen.unread = len(info["missing_keys"])
        names: list[str] = []
        for file in files:
            with safe_open(file, "pt") as opened:
                names += opened.keys()
        seen.prefix = prefix_of(names, set(model.state_dict()))


def prefix_of(names: list[str], own: set[str]) -> str:
    """Return what stands before a model's own name in each of these names; else nothing."""
    found = set()
    for name in names:
        parts = name.split(".")
        ends = [k for k in range(1, len(parts)) if ".".join(parts[k:]) in own]
        found.add(".".join(parts[: ends[0]]) + "." if ends else "")
    return found.pop() if len(found) == 1 else ""


def _shared(model: Any) -> list[str]:
    """Return names of parameters that are one tensor."""
    known: dict[int, str] = {}
    names = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.data_ptr() in known:
            names += [known[parameter.data_ptr()], name]
        known.setdefault(parameter.data_ptr(), name)
    return list(dict.fromkeys(names))
