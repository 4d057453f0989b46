"""TS705 update.new_parameters_are_kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.isolation.callbacks import taking_part
from trainsanity.isolation.overrides import own_methods, own_modes
from trainsanity.measurements.model.origin import Origin
from trainsanity.pipeline import is_adapted
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

WHOLLY_FROZEN = (
    "the whole model was frozen, its head with it",
    "set requires_grad on what is to be trained, after what is to stay was frozen",
)
"""Cause and fix where no adapter says more."""


@check(
    "TS705",
    "update.new_parameters_are_kept",
    follows=("model.adapter_can_move",),
    rules_out="saving",
    stops=True,
)
def new_parameters_are_kept(pipeline: Pipeline, origin: Origin) -> Iterator[Measured | Finding]:
    """New parameters are trained, and trained parameters are saved.

    What it checks: that something is trainable, that every parameter which the checkpoint does not
    have (a new head, an active adapter) is, and that every trainable parameter is in what
    ``save_pretrained`` writes.
    An adapter may be frozen where another active one is trained, and one that rests in any case.

    Why it matters: a new head that an adapter's configuration froze stays random for the whole run,
    and the adapters learn around it.  One that is trained and left out of the adapter's file is
    drawn anew when the model is loaded: training looked well, and the loaded model guesses.

    How it is measured: names in the headers of the checkpoint's safetensors files; the tensors of
    the state dict that would be written, by identity.  Exact.

    How to fix: name the head in ``LoraConfig(modules_to_save=[...])``, or give the
    ``task_type`` by which PEFT knows it; load an adapter with ``is_trainable=True`` to train it.

    Known false alarms: a part that is meant to stay random (a random projection).

    References: huggingface/peft#310, #577, #1070.
    """
    trainable = {name for name, p in pipeline.model.named_parameters() if p.requires_grad}
    frozen = [name for name in origin.new if name not in trainable]
    if not trainable and _stays_so(pipeline):
        number = sum(1 for _ in pipeline.model.parameters())
        cause, fix = _frozen(pipeline, trainable) if is_adapted(pipeline.model) else WHOLLY_FROZEN
        yield Finding(
            f"nothing is trainable: requires_grad is False of all {number} parameters, and no step "
            "can be taken",
            observed=0,
            expected=f"some of {number}",
            cause=cause,
            fix=fix,
        )
        frozen = []
    for names, state, (cause, fix) in (
        (frozen, "new and frozen: it stays as it was drawn", _frozen(pipeline, trainable)),
        (origin.unsaved, "trained and not saved", _unsaved(pipeline)),
    ):
        if names:
            yield Finding(
                f"{names[0]} is {state}" + (f" ({len(names)} in all)" if len(names) > 1 else ""),
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=cause,
                fix=fix,
            )
    known = (
        f"{len(origin.new) - len(frozen)} of {len(origin.new)} new parameters are trainable"
        if origin.checkpoint or origin.new
        else "no checkpoint shows which parameters are new"
    )
    saved = len(trainable) - len(origin.unsaved)
    yield Measured(
        f"{known}; {saved} of {len(trainable)} trainable ones are saved", saved, len(trainable)
    )


THAWS = ("train", "training_step", "compute_loss", "create_optimizer", "get_train_dataloader")
"""Methods of a Trainer that may make something trainable before its first backward pass."""


def _stays_so(pipeline: Pipeline) -> bool:
    """Return whether no code of the user's runs before the first step that could thaw something.

    A loop of the user's own may train what is no part of the model.
    """
    trainer = pipeline.trainer
    if trainer is None or own_modes(pipeline.model):
        return False
    return not (taking_part(trainer) or own_methods(trainer, THAWS))


SAVE = "name it in LoraConfig(modules_to_save=[...]), or give LoraConfig a task_type"


def _frozen(pipeline: Pipeline, trainable: set[str]) -> tuple[str, str]:
    """Return cause and fix of a new parameter that is frozen, by what else is frozen."""
    if not is_adapted(pipeline.model):
        return "it was frozen with the base model", "set requires_grad on it"
    if not trainable:
        return (
            "nothing is trainable: the adapter was loaded for inference, or all was frozen",
            "PeftModel.from_pretrained(..., is_trainable=True)",
        )
    return "everything but the adapter was frozen, the new head with it", SAVE


def _unsaved(pipeline: Pipeline) -> tuple[str, str]:
    """Return cause and fix of a trained parameter that is not written."""
    if is_adapted(pipeline.model):
        return "it is no part of the adapter, and only the adapter is written", SAVE
    return (
        "save_pretrained leaves it out, by _keys_to_ignore_on_save or a state_dict of its own",
        "take its name out of _keys_to_ignore_on_save",
    )
