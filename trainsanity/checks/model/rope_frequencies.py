"""TS413 model.rope_frequencies."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import within
from trainsanity.measurements.model.rope import Rope
from trainsanity.types import Finding, Measured


@check("TS413", "model.rope_frequencies", rules_out="position encoding")
def rope_frequencies(rope: Rope) -> Iterator[Measured | Finding]:
    """Rotary frequencies are what their formula gives.

    What it checks: each buffer ``inv_freq`` and the scaling beside it, against theta^(-2i/d), or
    against transformers' own formula for the config's scaled kinds.

    Why it matters: the buffer is in no checkpoint.  A loading path that forgets to compute it
    leaves whatever was in memory, and the model has no notion of order, without any error.

    How it is measured: largest relative difference, computed in float64 from ``rope_theta`` and the
    buffer's length, or by ``ROPE_INIT_FUNCTIONS`` on the CPU.  Allowed is 16 units of float32, in
    which transformers computes them, or one unit of the buffer's dtype where that is coarser.

    How to fix: build the buffer anew after loading: ``module.inv_freq, module.attention_scaling =
    module.rope_init_fn(module.config, device)``, or load with another version.

    Known false alarms: rotary modules with a formula of their own; name the check in
    expected_failures.

    References: huggingface/transformers#48892, huggingface/transformers#45902.
    """
    for one in rope.buffers:
        if not within(one.error, one.allowed):
            yield Finding(
                f"{one.name} differs from its formula by {one.error:.3g} of its value: "
                f"it begins {_listed(one.seen)}, the formula {_listed(one.expected)}",
                observed=one.seen,
                expected=one.expected,
                where=one.name,
                cause="the buffer is in no checkpoint, and was not computed after loading",
                fix="compute it anew after loading, with the rotary module's own rope_init_fn",
            )
    most = max(rope.buffers, key=lambda one: one.error)
    rounded = f", rounded to {most.dtype}" if most.dtype != "float32" else ""
    rest = f"; no formula for {', '.join(rope.unknown)}" if rope.unknown else ""
    yield Measured(
        f"{', '.join(one.name for one in rope.buffers[:3])}: as the formula says, to "
        f"{most.error:.2g}{rounded}{rest}",
        {one.name: one.error for one in rope.buffers},
        most.allowed,
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
