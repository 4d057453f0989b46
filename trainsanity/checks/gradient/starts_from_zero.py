"""TS611 gradient.starts_from_zero."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS611",
    "gradient.starts_from_zero",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    rules_out="gradient accumulation",
)
def starts_from_zero(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Gradients are zeroed before every optimizer step.

    What it checks: that the gradients which an optimizer step used are gone when the next step's
    first backward pass begins.

    Why it matters: ``backward()`` adds to what is there. Where nobody zeroes it every step is the
    sum of all before it, as with a momentum that never decays. The loss still falls for a while.

    How it is measured: as the first backward pass of a step begins, the gradients of the tensors
    that the optimizer holds are None or zero. Exact, and asked of every recorded step but the very
    first; a Trainer's, a custom training loop's, and those of a script's own loop.

    How to fix: zero the gradients once for each optimizer step, behind it::

        # bad
        loss.backward()
        optimizer.step()
        # good
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    The Trainer calls ``model.zero_grad()``: parameters of a loss that lie outside of the model, and
    that its optimizer was given, are passed by.

    Known false alarms: a loop that carries gradients over on purpose.

    References: https://stackoverflow.com/questions/60335387/pytorch-mnist-example-not-converge;
    one of the errors on TrainCheck's list (OSDI 2025).
    """
    asked = [(number, step.left) for number, step in enumerate(recording.steps, 1)
             if step.left is not None]  # fmt: skip
    if not asked:
        raise Skip("one optimizer step alone was recorded")
    left = [number for number, remains in asked if remains]
    outside = pipeline.trainer is not None and recording.update.apart
    if left:
        yield Finding(
            f"the gradient of the optimizer step before is still there as step {left[0]} begins "
            "its first backward pass: it is used once more",
            observed=len(left),
            expected=0,
            where=f"step {left[0]}",
            cause=f"the Trainer zeroes what its model has, and the optimizer holds {outside} "
            "elements besides that"
            if outside
            else "optimizer.zero_grad() is not called between the optimizer steps, or does nothing",
            fix="make them parameters of the model: model.criterion = criterion; or zero them "
            "yourself after each step"
            if outside
            else "call optimizer.zero_grad() once per optimizer step, after optimizer.step()",
        )
    yield Measured(
        f"{len(left)} of {len(asked)} steps begin with the gradient of the one before",
        len(left),
        0,
    )
