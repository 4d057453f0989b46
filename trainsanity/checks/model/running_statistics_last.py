"""TS448 model.running_statistics_last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

LAST = 0.9
"""Weight of the last batch from which nine tenths of the statistics are its own. Other frameworks
write 0.9 and more for what torch calls 0.1 and less."""


@check(
    "TS448",
    "model.running_statistics_last",
    rules_out="momentum of batch norms",
)
def running_statistics_last(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """Running statistics of batch norms are those of many batches.

    What it checks: the `momentum` of normalisations that keep running statistics.

    Why it matters: torch's momentum is the weight of the new batch; Keras, TensorFlow and Flax call
    the weight of the old statistics so. With 0.99 what the network says in evaluation depends on
    the few rows that came last, and jumps from one evaluation to the next.

    How it is measured: exact: statistics are an average over (2 - m) / m batches. A warning from a
    momentum of 0.9 on, which is less than 1.3 batches.

    How to fix: `momentum=0.01` for what Keras calls 0.99.

    Known false alarms: batches of all rows, whose statistics need no average.

    References: eriklindernoren/PyTorch-YOLOv3#230.
    """
    import torch

    norms = {
        name: one
        for name, one in pipeline.model.named_modules()
        if isinstance(one, torch.nn.modules.batchnorm._NormBase) and one.track_running_stats
    }
    if not norms:
        raise Skip("no normalisation of the model keeps running statistics")
    last = [name for name, one in norms.items() if (one.momentum or 0.0) >= LAST]
    if last:
        momentum = norms[last[0]].momentum or 0.0
        yield Finding(
            f"{len(last)} of {len(norms)} batch norms have a momentum of {momentum:g}: their "
            "running statistics are those of the last batch",
            observed=momentum,
            expected=f"below {LAST:g}",
            where=last[0],
            cause="the momentum is the other framework's: torch's is the weight of the new batch",
            fix=f"momentum={1 - momentum:.3g}",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{len(last)} of {len(norms)} normalisations with running statistics keep those of the "
        "last batch",
        len(last),
        0,
    )
