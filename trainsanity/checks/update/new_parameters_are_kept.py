"""TS705 update.new_parameters_are_kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.model.origin import Origin
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS705", "update.new_parameters_are_kept", rules_out="saving")
def new_parameters_are_kept(pipeline: Pipeline, origin: Origin) -> Iterator[Measured | Finding]:
    """What is new is trained, and what is trained is saved.

    What it checks: that every parameter which the checkpoint does not have (a new head, an
    adapter) is trainable, and that every trainable parameter is in what ``save_pretrained`` writes.

    Why it matters: a new head that an adapter's configuration froze stays random for the whole run,
    and the adapters learn around it.  One that is trained and left out of the adapter's file is
    drawn anew when the model is loaded: training looked well, and the loaded model guesses.

    How it is measured: names in the headers of the checkpoint's safetensors files; the tensors of
    the state dict that would be written, by identity.  Exact.

    How to fix: name the head in ``LoraConfig(modules_to_save=[...])``, or give the
    ``task_type`` by which PEFT knows it.

    Known false alarms: a part that is meant to stay random (a random projection).

    References: huggingface/peft#310, #577, #1070.
    """
    trainable = {name for name, p in pipeline.model.named_parameters() if p.requires_grad}
    frozen = [name for name in origin.new if name not in trainable]
    for names, said, cause in (
        (frozen, "new and frozen: it stays as it was drawn",
         "everything but the adapter was frozen, the new head with it"),
        (origin.unsaved, "trained and not saved",
         "it is no part of the adapter, and only the adapter is written"),
    ):  # fmt: skip
        if names:
            yield Finding(
                f"{names[0]} is {said}" + (f" ({len(names)} in all)" if len(names) > 1 else ""),
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=cause,
                fix="name it in LoraConfig(modules_to_save=[...]), or give LoraConfig a task_type",
            )
    whence = (
        f"{len(origin.new)} parameters are new and trainable, "
        if origin.checkpoint or origin.new
        else "no checkpoint tells which parameters are new; "
    )
    yield Measured(
        f"{whence}all {len(trainable)} trainable ones are saved", len(trainable), len(trainable)
    )
