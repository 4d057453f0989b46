"""TS411 model.attention_agrees."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, largest
from trainsanity.measurements.model.attention import Attention
from trainsanity.measurements.model.probes import Probes, difference
from trainsanity.types import Cost, Finding, Measured


@check(
    "TS411",
    "model.attention_agrees",
    cost=Cost.FORWARD,
    requires=("model.mask_is_obeyed", "model.causal"),
    rules_out="attention implementation",
)
def attention_agrees(probes: Probes, attention: Attention) -> Iterator[Measured | Finding]:
    """Attention implementations agree.

    What it checks: the logits of a few rows by the implementation that is trained, against each
    other one that the model has and this machine can run.

    Why it matters: implementations differ in what they are given (a scale, a mask, a soft cap), and
    one that is given too little trains another model than the one that was pretrained or is served.

    How it is measured: greatest absolute difference of the logits of padded rows, own tokens only,
    in float32 where that can be had.  Allowed is four times what arithmetic makes of them: see
    model.batch_equals_single.

    How to fix: ``attn_implementation="eager"`` where the difference is large, and an issue for the
    model.

    Known false alarms: implementations that drop a feature of the model with a warning of their
    own.

    References: huggingface/transformers#44380, huggingface/transformers#28889.
    """
    allowed = probes.allowed_logits
    seen = {
        name: difference(output.logits, probes.own.logits)
        for name, output in attention.outputs.items()
    }
    compared = Difference(largest(seen.values()), allowed)
    apart = [name for name, moved in seen.items() if not Difference(moved, allowed).explained]
    if apart:
        yield Finding(
            f"{attention.own} gives other logits than {' and '.join(apart)}: {compared}",
            observed=seen,
            expected=f"at most {allowed:.3g}",
            where=f"attn_implementation={attention.own!r}",
            cause="one of the implementations leaves out a scale, a mask or a cap of the model",
            fix='load the model with attn_implementation="eager", whose formula is in sight',
        )
    yield Measured(
        f"logits by {attention.own} and by {', '.join(seen)}: {compared}{probes.precision}",
        seen,
        allowed,
    )
