"""TS410 model.causal."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.model._invariances import change_before_the_last, not_numbers
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, largest
from trainsanity.measurements.model.probes import Probes
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS410",
    "model.causal",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    rules_out="attention mask",
)
def causal(probes: Probes) -> Iterator[Measured | Finding]:
    """Later tokens do not affect the states of earlier ones.

    What it checks: another last token leaves the states of all tokens before it as they were, in a
    padded batch and in a row alone, of a model that is causal by its task or by its attention
    modules (``is_causal``).

    Why it matters: a language model that sees the next token learns to copy it.  The loss falls
    fast and generation is noise.  Attention kernels are often given no mask at all where nothing
    is padded, and have to apply the causal one by themselves.

    How it is measured: greatest difference of a token's state relative to its norm, between two
    batches of one shape that differ in one id; in float32 where that can be had.  Allowed is four
    times what arithmetic makes of a state: see model.batch_equals_single.

    How to fix: an attention function that gets no mask has to set ``is_causal=True`` for queries
    longer than one.

    Known false alarms: a decoder turned into an encoder by other means than ``config.is_causal``
    or ``is_causal`` of its attention modules.

    References: huggingface/transformers#48748.
    """
    if not probes.causal:
        raise Skip("nothing says that the model is causal: it may look ahead")
    if probes.own.states is None:
        raise Skip("no state for each token is visible")
    broken = not_numbers({
        "as trained": probes.own,
        "with another last token": probes.changed,
        "a row alone": probes.alone[0],
        "a row alone with another last token": probes.alone_changed,
    })  # fmt: skip
    allowed = probes.allowed_states
    seen = {
        "in a padded batch": change_before_the_last(probes.changed, probes.own),
        "in a row alone": change_before_the_last(probes.alone_changed, probes.alone[0]),
    }
    compared = Difference(largest(seen.values()), allowed, "of the norm")
    ahead = [where for where, by in seen.items() if not Difference(by, allowed).explained]
    if broken:
        yield broken
    elif ahead:
        yield Finding(
            f"{ahead[0]}, another last token changes the states of tokens before it, "
            f"although the model is causal ({probes.causal}): {compared}",
            observed=seen[ahead[0]],
            expected=f"at most {allowed:.3g}",
            where=ahead[0],
            cause="the attention implementation leaves the causal mask out",
            fix="set is_causal=True where no mask is given, or another attn_implementation",
        )
    yield Measured(
        f"states of earlier tokens under another last token: {compared}; {probes.causal}"
        f"{probes.precision}",
        seen,
        allowed,
    )
