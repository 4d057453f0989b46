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
    needs=("other_processes",),
    rules_out=TOGETHER,
)
def ranks_hold_equal_weights(recording: Recording) -> Iterator[Measured | Finding]:
    """All processes hold the same weights, before and after every step.

    What it checks: the bits of every parameter on all processes, as step 1 begins, after the
    recorded steps, and after one more at the peak of the learning rate.

    Why it matters: data-parallel training averages gradients only.  Weights that one process alone
    loads, draws from its own seed or keeps out of the averaging make as many models as there are
    processes; the averaged gradient fits none of them, and the model that is saved has seen a part
    of the data.

    How it is measured: a hash of each parameter, gathered from all processes.  By then
    DistributedDataParallel has broadcast the weights of process 0, so that a head that each process
    draws for itself is no failure.  Exact, since all processes apply the same gradient to the same
    weights.  Sharded parameters (FSDP2) have one value over all processes and are not compared.

    How to fix: load and draw weights before the model is wrapped, in every process; name no
    trainable parameter in ``_ddp_params_and_buffers_to_ignore``; step the optimizer in every
    process.

    Known false alarms: processes on unlike devices, which round differently; local SGD that
    averages the weights less often than every second step.

    References: huggingface/accelerate#2037; torch.nn.parallel.DistributedDataParallel.
    """
    if not recording.held:
        raise Skip("the steps of these processes were not recorded side by side")
    compared = len(next(iter(recording.held.values()))[0])
    if not compared:
        raise Skip(
            f"all {recording.sharded} parameters are sharded: each process holds a part of them, "
            "so there is nothing to compare"
        )
    differing: list[str] = []
    for moment, processes in recording.held.items():
        first = processes[0]
        ranks = {
            name: [rank for rank, hashes in enumerate(processes) if hashes.get(name) != bits]
            for name, bits in first.items()
        }
        differing = [name for name, others in ranks.items() if others]
        if differing:
            others = sorted({rank for name in differing for rank in ranks[name]})
            at_start = moment == next(iter(recording.held))
            yield Finding(
                f"{moment}, {len(differing)} of {len(first)} parameters have other values in "
                f"process {', '.join(map(str, others))} than in process 0",
                observed=len(differing),
                expected=0,
                where=", ".join(differing[:3]),
                cause="something writes to them in some processes only, after the model was wrapped"
                if at_start
                else "their gradients are not averaged over the processes, or they are written to "
                "by something else",
                fix="load and draw weights in every process, before the Trainer wraps the model"
                if at_start
                else "let DistributedDataParallel see every trainable parameter, and call the "
                "wrapped model in training_step",
            )
            break
    sharded = f" ({recording.sharded} more are sharded)" if recording.sharded else ""
    count = len(next(iter(recording.held.values())))
    yield Measured(
        f"{len(differing)} of {compared} parameters{sharded} differ between {count} processes "
        f"({', '.join(recording.held)})",
        len(differing),
        0,
    )
