"""Repairs of settings: attributes of model, configs, tokenizer and arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.pipeline import unwrapped
from trainsanity.repairs import CannotApply, ChangesNothing

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

_ABSENT = object()


@contextlib.contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of one object, and put back what its ``__dict__`` had."""
    before = {name: vars(owner).get(name, _ABSENT) for name in values}
    # Properties keep their value elsewhere: they are set back through themselves.
    through = {
        name: getattr(owner, name)
        for name in values
        if isinstance(getattr(type(owner), name, None), property)
    }
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            if name in through:
                setattr(owner, name, through[name])
            elif value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = value


def schedule_of(pipeline: Pipeline) -> Any:
    """Return the schedule that the user built, without what accelerate puts around it; or None."""
    held = pipeline.lr_scheduler if pipeline.trainer is None else pipeline.trainer.lr_scheduler
    return getattr(held, "scheduler", held)


@contextlib.contextmanager
def attribute(pipeline: Pipeline, where: str, name: str, value: Any) -> Iterator[None]:
    """Set one attribute of a part of the pipeline."""
    model = unwrapped(pipeline.model)
    if where == "tokenizer":
        with _special_token(pipeline.tokenizer, name, value):
            yield
        return
    owner = {
        "model": model,
        "config": pipeline.config,
        "generation_config": getattr(model, "generation_config", None),
        "args": pipeline.args,
        "lr_scheduler": schedule_of(pipeline),
    }[where]
    if owner is None:
        raise CannotApply(f"this pipeline has no {where}")
    with changed(owner, **{name: value}):
        yield


@contextlib.contextmanager
def _special_token(tokenizer: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(tokenizer, name)
    setattr(tokenizer, name, value)
    try:
        yield
    finally:
        setattr(tokenizer, name, before)


@contextlib.contextmanager
def counts_not_taken(pipeline: Pipeline) -> Iterator[None]:
    """Have the Trainer divide by the accumulation, as if it had been built after the setting."""
    trainer = pipeline.trainer
    if not getattr(trainer, "model_accepts_loss_kwargs", False):
        raise ChangesNothing("the Trainer passes no item count")
    with (
        changed(unwrapped(pipeline.model), accepts_loss_kwargs=False),
        changed(trainer, model_accepts_loss_kwargs=False),
    ):
        yield


@contextlib.contextmanager
def label_names(pipeline: Pipeline, names: tuple[str, ...]) -> Iterator[None]:
    """Set ``id2label`` and ``label2id`` of the config to these names."""
    if pipeline.config is None:
        raise CannotApply("the model has no config")
    by_id = dict(enumerate(names))
    with changed(pipeline.config, id2label=by_id, label2id={n: k for k, n in by_id.items()}):
        yield


@contextlib.contextmanager
def neftune_off(pipeline: Pipeline) -> Iterator[None]:
    """Add no noise to the embeddings: the Trainer has copied the setting when it was built."""
    with contextlib.ExitStack() as stack:
        for owner in (pipeline.args, pipeline.trainer):
            if getattr(owner, "neftune_noise_alpha", None) is not None:
                stack.enter_context(changed(owner, neftune_noise_alpha=None))
        yield
