"""Make a pipeline of what was captured of a script's own training loop."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainsanity.errors import UsageError, first_line
from trainsanity.fields import is_indexable
from trainsanity.isolation.host_memory import to_device
from trainsanity.isolation.random_states import first_row, random_states
from trainsanity.isolation.shards import is_sharded
from trainsanity.pipeline import LoopArguments, Pipeline
from trainsanity.sources.captured import Captured
from trainsanity.sources.loop_passes import Passes
from trainsanity.sources.loop_tracks import Track

NAMELESS = (
    "the rows of this loop's data loader, or its batches, are no dictionaries: its data and its "
    "collate_fn are not judged"
)


class Optimizers:
    """Several optimizers of one model, stepped together."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def defaults(self) -> dict[str, Any]:
        """What they were built with, the first one's before the others'."""
        return {k: v for part in reversed(self.parts) for k, v in part.defaults.items()}

    @property
    def state(self) -> dict[Any, Any]:
        """The state of all."""
        return {key: value for part in self.parts for key, value in part.state.items()}

    def step(self) -> None:
        """Step each."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give each its state."""
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def pipeline_of(
    captured: Captured, track: Track, others: Sequence[Track], passes: Passes, skipped: int
) -> Pipeline:
    """Return the pipeline of a loop, with weights and rates as they were before its first step.

    Raises:
        UsageError: what was seen cannot be judged: no module was called, or several processes
            train it.
    """
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        size = torch.distributed.get_world_size()
        if size > 1:
            raise UsageError(
                f"this training loop runs in {size} processes: run it in one to have it judged"
            )
    model = track.model
    if model is None:
        kind, held = type(track.optimizer).__name__, track.optimizer.param_groups
        if all(p.grad is None for group in held for p in group["params"]):
            raise UsageError(
                f"no backward pass reaches the tensors that this script's {kind} steps: none of "
                "them has a gradient, and nothing of them is trained; look for a detach(), an "
                ".item() or a no_grad() between them and the loss"
            )
        raise UsageError(
            "the tensors that this script's optimizer steps belong to no torch.nn.Module that was "
            "called: give them to a module, and call it, to have the training loop judged"
        )
    if any(is_sharded(p) for p in model.parameters()):
        raise UsageError("the weights of this training loop's model are sharded: run it in one "
                         "process, without sharding, to have it judged")  # fmt: skip
    _to_the_first_step(captured, track)
    own = {id(p) for p in model.parameters()}
    for one in (track, *others):
        if one.stateless:
            one.optimizer.state.clear()
    beside = [other for other in others if other.parameters & own]
    optimizer = track.optimizer
    if beside:
        optimizer = Optimizers([optimizer, *(other.optimizer for other in beside)])
    captured.scheduler_calls = track.scheduler_calls
    data, collator, rows = _data(passes.loader)
    captured.length, captured.rows = _length(passes.loader), rows
    captured.other_models = len(others) - len(beside)
    notes = [*_notes(captured, track, captured.other_models, skipped)]
    if passes.loader is not None and data is None:
        notes.append(NAMELESS)
    group = optimizer.param_groups[0]
    pipeline = Pipeline(
        model=model,
        tokenizer=_tokenizer(collator, model),
        data_collator=collator,
        train_dataset=data,
        args=LoopArguments(
            per_device_train_batch_size=rows or _rows_of(captured),
            gradient_accumulation_steps=len(captured.first.passes) if captured.accumulates else 1,
            learning_rate=group.get("initial_lr", group["lr"]),
            max_grad_norm=captured.first.clip or 0.0,
        ),
        optimizer=optimizer,
        lr_scheduler=track.scheduler,
        captured=captured,
        notes=tuple(notes),
        optimizer_steps=len(captured.steps),
    )
    pipeline.refuse_unusable_model()
    return pipeline


def _to_the_first_step(captured: Captured, track: Track) -> None:
    """Put weights, buffers, rates and scheduler back to where the first step began."""
    import torch

    named = dict(track.model.named_parameters())
    first = captured.first
    with torch.no_grad():
        to_device([first.weights[name] for name in named], list(named.values()))
        for call in [one.call for one in first.passes if one.call is not None][:1]:
            for buffer, values in call.buffers:
                buffer.copy_(values)
    first.weights = {}
    for p in named.values():
        p.grad = None
    if track.scheduler is not None and track.state is not None:
        track.scheduler.load_state_dict(track.state)
    for group, rate in zip(track.optimizer.param_groups, track.rates, strict=True):
        group["lr"] = rate


def _notes(captured: Captured, track: Track, apart: int, skipped: int) -> Iterator[str]:
    count = len(captured.steps)
    yield (
        f"judged are the first {count} optimizer steps of the script's own training loop"
        if count > 1
        else "judged is the one optimizer step that the script's own training loop took"
    )
    if track.dropped:
        yield (
            "the first optimizer step of all was taken after fewer batches than the next, and is "
            "left out"
        )
    if apart:
        yield f"the script steps {apart} more optimizer{'s'[: apart > 1]}, of other models: " \
            "not judged"  # fmt: skip
    if skipped:
        yield f"GradScaler skipped {skipped} step{'s'[: skipped > 1]} with infinite gradients"
    if not captured.accumulates and len(captured.first.passes) > 1:
        yield (
            "accumulation was not judged: the backward passes of a step are not one for each "
            "batch of a DataLoader"
        )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except Exception:  # a stream has none; what others raise is the loop's to see
        return None


def _data(loader: Any) -> tuple[Any, Any, int | None]:
    """Return dataset and collator of a data loader, where rows and batches have names."""
    if loader is None:
        return None, None, None
    size = getattr(loader, "batch_size", None)
    size = size or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    data, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    if data is None or collate is None or not isinstance(size, int):
        return None, None, None
    if not is_indexable(data) and iter(data) is iter(data):
        return None, None, size
    row = first_row(data)
    if not isinstance(row, Mapping):
        return None, None, size
    restore = random_states(collate)
    try:
        made = collate([dict(row)])
    except Exception as error:
        raise UsageError(
            f"the collate_fn of the training DataLoader raised {type(error).__name__} for its "
            f"first row: {first_line(error)}"
        ) from error
    finally:
        restore()
    return (data, collate, size) if isinstance(made, Mapping) else (None, None, size)


def _rows_of(captured: Captured) -> int:
    import torch

    call = captured.first.passes[0].call
    given = [] if call is None else [*call.args, *call.kwargs.values()]
    return next((len(one) for one in given if torch.is_tensor(one) and one.dim()), 1) or 1


def _tokenizer(collator: Any, model: Any) -> Any:
    """Return the tokenizer: the collator's, one that it refers to, or that of the checkpoint."""
    import sys

    if "transformers.tokenization_utils_base" not in sys.modules:
        return None
    from transformers import PreTrainedTokenizerBase

    function = collator.func if isinstance(collator, functools.partial) else collator
    inside = [getattr(collator, "tokenizer", None)]
    inside += [_content(cell) for cell in getattr(function, "__closure__", None) or ()]
    inside += [*getattr(collator, "keywords", {}).values()]
    if (code := getattr(function, "__code__", None)) is not None:
        inside += [function.__globals__.get(name) for name in code.co_names]
    for one in inside:
        if isinstance(one, PreTrainedTokenizerBase):
            return one
    source = getattr(getattr(model, "config", None), "_name_or_path", None)
    everywhere = [one for one in gc.get_objects() if isinstance_of(one, PreTrainedTokenizerBase)]
    return next((one for one in everywhere if source and one.name_or_path == source), None)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def isinstance_of(value: Any, kind: type) -> bool:
    """Return whether a value's own class is a kind; proxies are not asked."""
    return issubclass(type(value), kind)


def ratios(captured: Captured, kind: str) -> list[float]:
    """Return each recorded pass's loss over the model's own, or over a formula's.

    Args:
        captured: the steps.
        kind: ``model_loss`` or ``formula_loss``.
    """
    return [
        one.value / own if (own := getattr(one, kind)) else math.nan
        for step in captured.steps
        for one in step.passes
    ]
