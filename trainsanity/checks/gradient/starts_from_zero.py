"""TS611 gradient.starts_from_zero."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS611",
    "gradient.starts_from_zero",
    cost=Cost.STEP,
    requires=("gradient.finite",),
    rules_out="gradient accumulation",
)
def starts_from_zero(recording: Recording) -> Iterator[Measured | Finding]:
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

    Known false alarms: a loop that carries gradients over on purpose.

    References: https://stackoverflow.com/questions/60335387/pytorch-mnist-example-not-converge;
    one of the errors on TrainCheck's list (OSDI 2025).
    """
    asked = [(number, step.left) for number, step in enumerate(recording.steps, 1)
             if step.left is not None]  # fmt: skip
    if not asked:
        raise Skip("one optimizer step alone was recorded")
    left = [number for number, remains in asked if remains]
    if left:
        yield Finding(
            f"the gradient of the optimizer step before is still there as step {left[0]} begins "
            "its first backward pass: it is used once more",
            observed=len(left),
            expected=0,
            where=f"step {left[0]}",
            cause="optimizer.zero_grad() is not called between the optimizer steps, or does "
            "nothing",
            fix="call optimizer.zero_grad() once per optimizer step, after optimizer.step()",
        )
    yield Measured(
        f"{len(left)} of {len(asked)} steps begin with the gradient of the one before",
        len(left),
        0,
    )
