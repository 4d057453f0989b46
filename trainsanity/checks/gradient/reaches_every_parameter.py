"""TS605 gradient.reaches_every_parameter."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS605",
    "gradient.reaches_every_parameter",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    rules_out="gradient direction",
)
def reaches_every_parameter(recording: Recording) -> Iterator[Measured | Finding]:
    """Every trainable parameter receives a gradient.

    What it checks: that no trainable parameter has ``grad is None`` after the backward passes of
    the first optimizer step.

    Why it matters: gradient checkpointing over inputs that need no gradient, a ``detach`` or a
    ``no_grad`` in the wrong place cut the model in two.  What lies below never learns.

    How it is measured: exact.

    How to fix: ``model.enable_input_require_grads()`` with checkpointing and frozen embeddings, or
    ``use_reentrant=False``; remove the ``detach``.

    Known false alarms: parameters that this task does not use (a pooler, an expert that no token
    was sent to).  Freeze them, or name the check in expected_failures.

    References: huggingface/transformers#42489, huggingface/transformers#21381.
    """
    trainable = [p for p in recording.update.parameters if p.trainable]
    cut = [p.name for p in trainable if not p.has_gradient]
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
    reached = len(trainable) - len(cut)
    yield Measured(
        f"{reached} of {len(trainable)} trainable parameters receive a gradient",
        reached,
        len(trainable),
    )
