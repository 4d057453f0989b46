"""TS605 gradient.reaches_every_parameter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.model.origin import added_by_peft, plain_name
from trainsanity.measurements.step.steps import Recording
from trainsanity.pipeline import is_adapted
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS605",
    "gradient.reaches_every_parameter",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    rules_out="gradient direction",
)
def reaches_every_parameter(
    pipeline: Pipeline, recording: Recording
) -> Iterator[Measured | Finding]:
    """Every trainable parameter receives a gradient.

    What it checks: that no trainable parameter has ``grad is None`` after the backward passes of
    the recorded optimizer steps.

    Why it matters: gradient checkpointing over inputs that need no gradient, a ``detach`` or a
    ``no_grad`` in the wrong place cut the model in two.  What lies below never learns.

    How it is measured: exact.  Parameters without a gradient are given other values for a moment:
    if loss and gradients of a micro-batch stay the same to the last digit, the step does not use
    them, and that is a warning; an adapter that is not used is a failure, since it was added to
    learn.

    How to fix: ``model.enable_input_require_grads()`` with checkpointing and frozen embeddings, or
    ``use_reentrant=False``; remove the ``detach``.

    Known false alarms: parts of a custom training loop that are trained by turns, longer than the
    recorded steps.  What config or task switch off (a pooler, ``masked_spec_embed``, the cross
    attention of a decoder by itself, an expert that no token was sent to) is a warning; freeze it,
    and the warning ends.

    References: huggingface/transformers#42489, huggingface/transformers#21381.
    """
    trainable = [p for p in recording.update.parameters if p.trainable]
    cut = [p.name for p in trainable if not p.has_gradient]
    unused = [n for n in cut if n in (recording.unused or ()) and not _of_adapter(pipeline, n)]
    cut = [name for name in cut if name not in unused]
    taken = [name for name in cut if name in recording.own_code.taken_away]
    cut = [name for name in cut if name not in taken]
    if taken:
        yield Finding(
            f"{len(taken)} of {len(trainable)} trainable parameters have no gradient when the "
            "optimizer steps: a callback takes it away",
            observed=len(trainable) - len(taken),
            expected=len(trainable),
            where=", ".join(taken[:3]),
            cause=f"{recording.own_code.who} sets grad to None after the backward pass",
            fix="let the callback leave the gradients alone until the optimizer has stepped",
        )
    if cut:
        checkpointed = bool(recording.checkpointing)
        yield Finding(
            f"{len(cut)} of {len(trainable)} trainable parameters receive no gradient",
            observed=len(trainable) - len(cut),
            expected=len(trainable),
            where=", ".join(cut[:3]),
            cause="checkpointing over inputs that need no gradient, or a detach or no_grad, cuts "
            "the graph"
            if checkpointed
            else "a detach, a no_grad, or a checkpoint over frozen inputs cuts the graph, or the "
            "loss does not use these parameters",
            fix="model.enable_input_require_grads(), or use_reentrant=False for checkpointing",
        )
    if unused:
        yield Finding(
            f"{len(unused)} of {len(trainable)} trainable parameters receive no gradient, and no "
            "value of theirs changes the loss: this step does not use them",
            observed=len(trainable) - len(unused),
            expected=len(trainable),
            where=", ".join(unused[:3]),
            cause="a part that the config or the task switches off, or a module that forward() "
            "never calls",
            fix="requires_grad_(False) on what is not meant to be trained",
            severity=Severity.WARNING,
        )
    reached = len(trainable) - len(taken) - len(cut) - len(unused)
    yield Measured(
        f"{reached} of {len(trainable)} trainable parameters receive a gradient",
        reached,
        len(trainable),
    )


def _of_adapter(pipeline: Pipeline, name: str) -> bool:
    """Return whether PEFT added the parameter."""
    if not is_adapted(pipeline.model):
        return False
    return ".modules_to_save." in name or plain_name(name, added_by_peft(pipeline.model)) is None
