"""TS413 model.rope_frequencies."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference
from trainsanity.measurements.model.rope import Rope
from trainsanity.types import Finding, Measured


@check("TS413", "model.rope_frequencies", rules_out="position encoding")
def rope_frequencies(rope: Rope) -> Iterator[Measured | Finding]:
    """Rotary frequencies equal their formula.

    What it checks: each buffer ``inv_freq`` and the scaling beside it, against theta^(-2i/d), or
    against transformers' own formula for the config's scaled kinds.

    Why it matters: the buffer is in no checkpoint.  A loading path that does not compute it
    leaves whatever was in memory, and the model has no notion of order, without any error.

    How it is measured: greatest relative difference, in float64 from ``rope_theta`` and the
    buffer's length, or by ``ROPE_INIT_FUNCTIONS`` on the CPU.  Allowed is 16 units of float32, in
    which transformers computes them, or one unit of the buffer's dtype where that is coarser.

    How to fix: build the buffer anew after loading: ``module.inv_freq, module.attention_scaling =
    module.rope_init_fn(module.config, device)``, or load with another version.

    Known false alarms: rotary modules with a formula of their own; name the check in
    expected_failures.

    References: huggingface/transformers#48892, huggingface/transformers#45902.
    """
    compared = [(one, Difference(one.error, one.allowed, "of its value")) for one in rope.buffers]
    wrong = [pair for pair in compared if not pair[1].explained]
    for one, by in wrong:
        cause, fix = _explain(one.error)
        yield Finding(
            f"{one.name} differs from its formula: {by}; it begins {_listed(one.seen)}, the "
            f"formula {_listed(one.expected)}",
            observed=one.seen,
            expected=one.expected,
            where=one.name,
            cause=cause,
            fix=fix,
        )
    most, by = wrong[0] if wrong else max(compared, key=lambda pair: pair[1].greatest)
    rest = f"; no formula for {', '.join(rope.unknown)}" if rope.unknown else ""
    yield Measured(
        f"{', '.join(one.name for one in rope.buffers[:3])} ({most.dtype}) against the formula: "
        f"{by}{rest}",
        {one.name: one.error for one in rope.buffers},
        most.allowed,
    )


COARSE = 2.0**-8
"""Half a unit of bfloat16's last place, relative: an error up to it is what a cast leaves."""


def _explain(error: float) -> tuple[str, str]:
    """Return cause and fix by the size of the error."""
    if error <= COARSE:
        return (
            "the error is no larger than what a cast to a coarser dtype leaves",
            "keep the buffer in float32, or compute it anew after the cast",
        )
    return (
        "the buffer is in no checkpoint and was not computed after loading, or the module has a "
        "formula of its own",
        "compute it anew after loading, with the rotary module's own rope_init_fn",
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
