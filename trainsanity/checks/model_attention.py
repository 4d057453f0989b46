"""TS4: attention by any implementation, and positions by their formula."""

from __future__ import annotations

from collections.abc import Iterator

from ..measurements.attention import Attention
from ..measurements.probes import Probes, difference
from ..measurements.rope import Rope
from ..registry import check
from ..tolerances import within
from ..types import Cost, Finding, Seen


@check(
    "TS411",
    "model.attention_agrees",
    cost=Cost.FORWARD,
    requires=("model.mask_is_obeyed", "model.causal"),
    acquits="attention implementation",
)
def attention_agrees(probes: Probes, attention: Attention) -> Iterator[Seen | Finding]:
    """Eager, sdpa and flash attention say the same.

    What it checks: the logits of a few rows by the implementation that is trained, against each
    other one that the model has and this machine can run.

    Why it matters: implementations differ in what they are told (a scale, a mask, a soft cap), and
    one that is told too little trains another model than the one that was pretrained or is served.

    How it is measured: largest absolute difference of the logits of padded rows, own tokens only.
    Four times the difference between rows alone and among copies of themselves is allowed, or
    torch.testing's relative tolerance for the dtype.

    How to fix: ``attn_implementation="eager"`` where the difference is large, and an issue for the
    model.

    Known false alarms: implementations that drop a feature of the model with a warning of their
    own.

    References: huggingface/transformers#44380, huggingface/transformers#28889.
    """
    allowed = probes.allowed_logits
    seen = {
        name: difference(look.logits, probes.own.logits) for name, look in attention.looks.items()
    }
    apart = [name for name, moved in seen.items() if not within(moved, allowed)]
    if apart:
        yield Finding(
            f"logits by {attention.own} differ from those by {' and '.join(apart)} by "
            f"{seen[apart[0]]:.3g}; arithmetic explains {allowed:.2g}",
            observed=seen,
            expected=f"at most {allowed:.3g}",
            where=f"attn_implementation={attention.own!r}",
            cause="one of them is not told the model's scale, mask or cap",
            fix='load the model with attn_implementation="eager", whose formula is in sight',
        )
    most = max(seen, key=lambda name: seen[name])
    yield Seen(
        f"{attention.own} differs from {', '.join(seen)} by at most {seen[most]:.2g} "
        f"(allowed {allowed:.2g})",
        seen,
        allowed,
    )


@check("TS413", "model.rope_frequencies", acquits="position encoding")
def rope_frequencies(rope: Rope) -> Iterator[Seen | Finding]:
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
    yield Seen(
        f"{', '.join(one.name for one in rope.buffers[:3])}: as the formula says, to "
        f"{most.error:.2g}{rounded}{rest}",
        {one.name: one.error for one in rope.buffers},
        most.allowed,
    )


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
