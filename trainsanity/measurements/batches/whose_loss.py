"""Whose the loss is: the stock Trainer's, an override's, or the model's own."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from trainsanity.errors import UsageError
from trainsanity.pipeline import of_transformers

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def _makes_its_loss(trainer: Any) -> bool:
    """Return whether ``training_step`` is one of its own that asks no ``compute_loss``.

    A policy that answers prompts while it trains is given no labels, and needs none.
    """
    for cls in type(trainer).__mro__:
        if "training_step" not in vars(cls):
            continue
        step = inspect.unwrap(vars(cls)["training_step"])
        names = getattr(getattr(step, "__code__", None), "co_names", ())
        if cls.__module__.partition(".")[0] == "transformers" or "compute_loss" in names:
            return False
        if "training_step" not in names:  # else it asks the one that it overrides
            return True
    return False


def own_loss(pipeline: Pipeline) -> bool:
    """Return whether ``compute_loss`` is not the stock Trainer's; True for a custom loop."""
    trainer = pipeline.trainer
    return trainer is None or _overridden(trainer) or _makes_its_loss(trainer)


def labels_reach_model(pipeline: Pipeline) -> bool:
    """Return whether the model is given labels, as far as is known without a step."""
    if pipeline.captured is not None:
        made = pipeline.captured.first.passes
        return any(one.call is None or "labels" in one.call.kwargs for one in made)
    return not own_loss(pipeline)


def _overridden(trainer: Any) -> bool:
    from transformers import Trainer

    return type(trainer).compute_loss is not Trainer.compute_loss


def refuse_unlabelled(trainer: Any, made: Collection[str], columns: Iterable[str]) -> None:
    """Refuse a batch without labels, unless ``compute_loss`` or the model makes do without.

    A model of the user's own may make its loss of anything, as of the batch's own pairs: whether it
    does is seen where it is called.

    Raises:
        UsageError: it has none, and the stock ``compute_loss`` would have no loss.
    """
    own_model = not of_transformers(trainer.model)
    names = ("labels", *(trainer.label_names or ()))
    # The Trainer looks for them in the signature of the model's forward.
    labelled = not trainer.label_names or any(name in made for name in names)
    if _overridden(trainer) or _makes_its_loss(trainer) or labelled or own_model:
        return
    given = sorted(columns)
    fix = "name the column 'label' or 'labels', or set TrainingArguments(label_names=[...])"
    # Collators make "labels" of these.
    if own := [name for name in given if name in ("label", "label_ids", *names)]:
        fix = f"the collator leaves them out: keep {own[0]!r} of the rows in its batch, as 'labels'"
    raise UsageError(
        f"the batch has no labels (the collator is given rows with {', '.join(given)}): {fix}"
    )
