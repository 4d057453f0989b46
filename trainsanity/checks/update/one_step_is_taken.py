"""TS709 update.one_step_is_taken."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.stepping import Stepping
from trainsanity.types import Cost, Finding, Measured, Severity


@check(
    "TS709",
    "update.one_step_is_taken",
    cost=Cost.STEP,
    rules_out="steps of single micro-batches",
)
def one_step_is_taken(stepping: Stepping) -> Iterator[Measured | Finding]:
    """A custom training loop takes one optimizer step per accumulated batch.

    What it checks: how often the optimizer steps while ``train_step`` is given the micro-batches of
    one step, ``gradient_accumulation_steps`` of them; and, where something else steps, whether that
    is made anew in each call.

    Why it matters: where accelerate was not told of the accumulation, ``accumulate`` lets every
    micro-batch step, and the batch is a fraction of the one that the learning rate was chosen for;
    where ``accumulate`` is entered around the loop in place of inside it, most micro-batches train
    nothing.

    How it is measured: exact, by a hook on the optimizer, in one call that is undone. Where it
    never steps and weights move all the same, something else steps them: a warning. Two more calls
    tell whether that is an optimizer of its own in each, which takes one step, has moments after it
    and had none before; one that takes several is an inner loop's. More steps than micro-batches,
    each by gradients of its own, are a warning, too: a batch may be used more than once, as in PPO.

    How to fix: enter ``accelerator.accumulate(model)`` once for each micro-batch, and make the
    Accelerator with the ``gradient_accumulation_steps`` of the run::

        # bad
        accelerator = Accelerator()
        # good
        accelerator = Accelerator(gradient_accumulation_steps=4)

    Known false alarms: none known. Optimizers that step twice on purpose (SAM) have a step() of
    their own around both.

    References: huggingface/diffusers#308, huggingface/accelerate#1211, Wangyixinxin/ACN#9.
    """
    count, steps = stepping.micro_batches, stepping.steps
    if stepping.anew:
        yield Finding(
            "each step is taken by an optimizer that is made anew: none has taken one before",
            observed="one for each step",
            expected="one for all",
            cause="the optimizer is created inside the step: its moments are lost each time, and "
            "a schedule of the first one changes nothing",
            fix="create the optimizer once, before the loop, and step that",
        )
    elif not steps and stepping.moved:
        yield Finding(
            f"train_step is given {_batches(count)}, the weights move, and the optimizer of the "
            "pipeline does not step",
            observed=0,
            expected=1,
            where="train_step",
            cause="something else steps: another optimizer than the pipeline was given, or one for "
            "each weight within the backward pass",
            fix="give the pipeline the optimizer that steps; nothing, if weights are stepped one "
            "by one on purpose",
            severity=Severity.WARNING,
        )
    elif steps != 1:
        every = steps == count > 1
        several = steps > count and not stepping.again
        yield Finding(
            f"train_step is given the {count} micro-batches of one step, and the optimizer steps "
            f"{steps} times"
            if steps
            else f"train_step is given {_batches(count)}, and the optimizer never steps",
            observed=steps,
            expected=1,
            where="train_step",
            factor=float(steps),
            severity=Severity.WARNING if several else Severity.FAILURE,
            cause="each batch is used several times, or in parts: as in PPO, on purpose"
            if several
            else "step() is called again with the gradients of the step before"
            if stepping.again
            else "gradients are not accumulated: every micro-batch takes a step of its own"
            if every
            else "accumulate() is entered around the loop and not once per micro-batch, or the "
            "steps are counted by something else than these micro-batches"
            if steps
            else "accumulate() is entered once around the loop: the micro-batches do not add up "
            "to a step",
            fix="with accelerator.accumulate(model): around each micro-batch, and "
            "Accelerator(gradient_accumulation_steps=...) of the run; in plain torch call "
            "optimizer.step() after the last micro-batch",
        )
    yield Measured(f"the optimizer steps {steps} times for {count} micro-batches", steps, 1)


def _batches(count: int) -> str:
    return f"{count} micro-batch{'es' * (count != 1)}"
