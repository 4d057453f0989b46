"""TS921 loop.ranks_are_allocated."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip


@check(
    "TS921",
    "loop.ranks_are_allocated",
    cost=Cost.STEP,
    rules_out="ranks that never move",
)
def ranks_are_allocated(recording: Recording) -> Iterator[Measured | Finding]:
    """An adapter with a budget of ranks is told after each step to spend it.

    What it checks: whether `update_and_allocate` of the adapter is called in the recorded steps,
    where its configuration has a budget: AdaLoRA with `target_r` other than `init_r`, AdaMSS with
    `use_asa`.

    Why it matters: AdaLoRA takes ranks from layers that do without and leaves them to those that
    need them, but only if it is called. The Trainer does not call it: every layer keeps its initial
    rank, the model is larger than was asked for, and what was published of the method does not
    hold. It trains as LoRA would; so this is a warning.

    How it is measured: exact: the calls are counted while the first optimizer steps are taken,
    callbacks and the loop's own code among them.

    How to fix: call it between the backward pass and `zero_grad`, where gradients are still there::

        class Allocates(TrainerCallback):
            def on_optimizer_step(self, args, state, control, model=None, **parts):
                model.base_model.update_and_allocate(state.global_step)

    Known false alarms: a callback that begins to call it after some steps; AdaLoRA waits by itself,
    for `tinit` steps.

    References: huggingface/peft#1801.
    """
    if recording.allocations is None:
        raise Skip("no adapter has a budget of ranks, or its calls were not seen")
    steps = len(recording.steps)
    if not recording.allocations:
        yield Finding(
            f"update_and_allocate is not called in {steps} optimizer steps: every layer keeps the "
            "rank that it began with",
            observed=0,
            expected=steps,
            cause="the Trainer does not call it",
            fix="call model.base_model.update_and_allocate(state.global_step) in a callback's "
            "on_optimizer_step, or after optimizer.step() of your own loop",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"update_and_allocate is called {recording.allocations} times in {steps} optimizer steps",
        recording.allocations,
        steps,
    )
