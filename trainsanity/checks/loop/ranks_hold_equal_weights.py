"""TS909 loop.ranks_hold_equal_weights."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.loop._processes import TOGETHER
from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS909",
    "loop.ranks_hold_equal_weights",
    cost=Cost.STEP,
    needs=("trainer", "other_processes"),
    rules_out=TOGETHER,
)
def ranks_hold_equal_weights(recording: Recording) -> Iterator[Measured | Finding]:
    """All processes hold the same weights, before the first step and after every other.

    What it checks: the bits of every parameter on all processes, as step 1 begins, after the
    recorded steps, and after one more at the peak of the learning rate.

    Why it matters: data-parallel training averages gradients and nothing else.  Weights that are
    loaded by one process alone, drawn from a seed of its own or left out of the averaging make as
    many models as there are processes; their mean gradient is nobody's, and the one that is saved
    has seen a part of the data.

    How it is measured: a hash of each parameter, gathered from all processes.  What
    DistributedDataParallel does when it is built, broadcasting the first process's weights, has
    been done by then: a head that each process draws for itself is no failure.  Exact, since all
    of them apply one gradient to one weight.  Parameters that are sharded (FSDP2) have one value in
    all processes together, and are not compared.

    How to fix: load and draw weights before the model is wrapped, in every process; name no
    trainable parameter in ``_ddp_params_and_buffers_to_ignore``; step the optimizer in every
    process.

    Known false alarms: processes on unlike devices, which round differently.

    References: huggingface/accelerate#2037; torch.nn.parallel.DistributedDataParallel.
    """
    if not recording.held:
        raise Skip("the steps of these processes were not recorded side by side")
    compared = 0
    for moment, processes in recording.held.items():
        first = processes[0]
        compared = len(first)
        apart = {
            name: [number for number, one in enumerate(processes) if one.get(name) != bits]
            for name, bits in first.items()
        }
        names = [name for name, numbers in apart.items() if numbers]
        if names:
            numbers = sorted({number for name in names for number in apart[name]})
            begun = moment == next(iter(recording.held))
            yield Finding(
                f"{moment}, {len(names)} of {len(first)} parameters have other values in process "
                f"{', '.join(map(str, numbers))} than in process 0",
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause="they are loaded or drawn in one process alone, after the model was wrapped"
                if begun
                else "their gradients are not averaged over the processes, or they are written to "
                "besides",
                fix="load and draw weights in every process, before the Trainer wraps the model"
                if begun
                else "let DistributedDataParallel see every trainable parameter, and call the "
                "wrapped model in training_step",
            )
            break
    if not compared:
        raise Skip(
            f"all {recording.sharded} parameters are sharded: each process holds a part of them, "
            "so there is nothing to compare"
        )
    besides = f" ({recording.sharded} more are sharded)" if recording.sharded else ""
    count = len(next(iter(recording.held.values())))
    yield Measured(
        f"{count} processes hold the same {compared} parameters {', '.join(recording.held)}"
        + besides,
        0,
        0,
    )
