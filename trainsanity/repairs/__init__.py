"""Repairs: changes of a pipeline that are applied for a while and undone.

A check gives its finding a :class:`~trainsanity.types.Repair`, which is data.  What applies it is a
context manager of the same name that a module of this package registers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from trainsanity.proofs import Repair

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

KINDS = {
    "attribute": "settings",
    "counts_not_taken": "settings",
    "label_names": "settings",
    "neftune_off": "settings",
    "padding_unlabelled": "batches",
    "ends_labelled": "batches",
    "labels_as_ids": "batches",
    "mask_rebuilt": "batches",
    "padding_filled": "batches",
    "trainers_own_optimizer": "training",
    "norms_not_decayed": "training",
    "own_clip_left_out": "training",
    "callbacks_left_out": "training",
    "groups_completed": "loops",
    "schedule_by_the_step": "loops",
    "schedule_stretched": "loops",
    "loss_scaled": "training",
    "teachers_quiet": "modules",
    "dropout_off": "modules",
    "adapter_trainable": "modules",
    "parameters_trainable": "modules",
    "frozen_in_eval": "modules",
    "softmax_removed": "modules",
    "drawn_anew": "modules",
}
"""Each kind of repair, with the module here that applies it."""


class CannotApply(Exception):
    """Raised where a repair has nothing to change in this pipeline; the text is the reason."""


class ChangesNothing(CannotApply):
    """Raised where the pipeline is already as the repair would make it: it cannot be the cause."""


def repair(
    words: str,
    kind: str,
    *,
    cause: str | None = None,
    fix: str | None = None,
    then: str | None = None,
    **arguments: Any,
) -> Repair:
    """Return a repair as a value.

    Args:
        words: the change as a user would write it.
        kind: of :data:`KINDS`.
        cause: as in :class:`~trainsanity.types.Repair`.
        fix: likewise.
        then: likewise.
        arguments: what the function of that kind is given.
    """
    return Repair(words, kind, tuple(arguments.items()), cause, fix, then)


def setting(where: str, name: str, value: Any, **told: str) -> Repair:
    """Return the repair that sets an attribute.

    Args:
        where: ``model``, ``config``, ``generation_config``, ``tokenizer``, ``args`` or
            ``lr_scheduler``.
        name: of the attribute.
        value: its new value.
        told: ``cause`` and ``fix``, as in :class:`~trainsanity.types.Repair`.
    """
    owner = {"config": "model.config", "generation_config": "model.generation_config"}
    words = f"{owner.get(where, where)}.{name} = {value!r}"
    return repair(words, "attribute", where=where, name=name, value=value, **told)


COUNT_IGNORED = repair("model.accepts_loss_kwargs = False", "counts_not_taken")
"""The Trainer divides by the accumulation because the loss ignores its item count."""

TRAINERS_OWN = repair(
    "optimizer and schedule built by the Trainer",
    "trainers_own_optimizer",
    then="schedule.learning_rate_follows",
)
"""Nothing of the user's own builds either."""


def count_ignored(pipeline: Pipeline) -> tuple[Repair, ...]:
    """Return :data:`COUNT_IGNORED` where the Trainer passes a count; empty elsewhere."""
    passes = getattr(pipeline.trainer, "model_accepts_loss_kwargs", False)
    return (COUNT_IGNORED,) if passes else ()


LIBRARIES = ("transformers", "trl")
"""Packages whose Trainers build optimizer and schedule as their arguments say."""

BUILDING = ("create_optimizer", "create_scheduler", "create_optimizer_and_scheduler")
"""The methods by which a Trainer builds both."""


def trainers_own(pipeline: Pipeline) -> tuple[Repair, ...]:
    """Return :data:`TRAINERS_OWN` where something else builds optimizer or schedule."""
    trainer = pipeline.trainer
    if trainer is None:
        return ()
    given = trainer.optimizer is not None or trainer.lr_scheduler is not None
    return (TRAINERS_OWN,) if given or any(_overridden(trainer, one) for one in BUILDING) else ()


def _overridden(trainer: Any, method: str) -> bool:
    """Return whether a method is neither transformers' nor TRL's."""
    owner = next((one for one in type(trainer).__mro__ if method in vars(one)), None)
    module = "" if owner is None else owner.__module__.partition(".")[0]
    return method in vars(trainer) or module not in LIBRARIES


def can_step_again(pipeline: Pipeline) -> bool:
    """Return whether a loop of the user's own can be asked for steps with something changed."""
    return pipeline.trainer is None and pipeline.captured is None


def loss_divided(by: float, *, logged: bool = True, accumulated: bool = False) -> Repair:
    """Return the repair that divides each micro-batch's loss before its backward pass.

    Args:
        by: what it is divided by.
        logged: whether what is logged is divided as well.
        accumulated: whether that is the number of micro-batches, or one by it.
    """
    scaled = f"loss / {by:g}" if by >= 1 else f"loss * {1 / by:g}"
    words = f"{scaled} before backward()" + (", and in the log" if logged else "")
    if accumulated:
        power = -1 if by > 1 else 1
        return repair(words, "loss_scaled", logged=logged, batches_to_the=power, factor=1 / by)
    return repair(words, "loss_scaled", logged=logged, factor=1 / by)


def applied(change: Repair, pipeline: Pipeline) -> AbstractContextManager[None]:
    """Return the context manager that applies a repair and puts the pipeline back.

    Raises:
        CannotApply: there is no such kind; the context manager raises it on entry where the
            pipeline has nothing to change.
    """
    if change.kind not in KINDS:
        raise CannotApply(f"no repair is called {change.kind!r}")
    module = import_module(f"{__name__}.{KINDS[change.kind]}")
    context: AbstractContextManager[None] = getattr(module, change.kind)(
        pipeline, **dict(change.arguments)
    )
    return context
