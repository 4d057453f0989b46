"""TS604 gradient.finite."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS604",
    "gradient.finite",
    cost=Cost.STEP,
    requires=("loss.finite",),
    rules_out="gradient norm",
)
def finite(recording: Recording) -> Iterator[Measured | Finding]:
    """Every gradient is finite.

    What it checks: all gradients of the recorded optimizer steps, before the optimizer uses them.

    Why it matters: one NaN spreads through the clip to every parameter, and the weights are lost
    with the next step while the logged loss can look healthy.

    How it is measured: ``isfinite``, exactly.

    How to fix: ``torch.autograd.detect_anomaly`` names the operation; square roots and norms at
    zero have a finite value and no finite derivative.

    Known false alarms: float16 with a loss scaler skips such steps by design.

    References: torch.autograd.detect_anomaly.
    """
    parameters = recording.update.parameters
    bad = [p.name for p in parameters if not p.finite]
    if bad:
        yield Finding(
            f"{len(bad)} of {len(parameters)} gradients are not finite",
            observed=len(bad),
            expected=0,
            where=", ".join(bad[:3]),
            cause="an operation whose derivative is not finite where its value is, or a hook",
            fix="find it with torch.autograd.detect_anomaly",
        )
    yield Measured(
        f"{len(parameters) - len(bad)} of {len(parameters)} gradients are finite", len(bad), 0
    )
