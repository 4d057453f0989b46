"""TS409 model.read_at_the_end."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.checks.model._invariances import (
    abstain_if_hidden,
    change_before_the_last,
    not_numbers,
)
from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import Difference, largest, within
from trainsanity.measurements.model.probes import Probes, difference, relative
from trainsanity.repairs import setting
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS409",
    "model.read_at_the_end",
    cost=Cost.FORWARD,
    requires=("model.right_token_pooled", "model.mask_is_obeyed", "model.causal"),
    rules_out="PAD / EOS",
)
def read_at_the_end(probes: Probes) -> Iterator[Measured | Finding]:
    """Pooled logits depend on the last token and not on padding.

    What it checks: for a causal classifier, that the logits react to the last attended token and
    not to padding behind or before it, with ``use_cache`` on and off.

    Why it matters: a head that reads the last column reads padding; one that reads at the number
    of tokens reads inside the text once padding stands on the left.  The loss looks normal.

    How it is measured: the last token of each row is changed.  In a causal model logits react to
    every token up to the one that is read and to none behind it.  Rows that do not react have each
    token changed in turn, which gives the place.  Where padding changes the logits of a row by
    itself though it changes no token's state, the place is in the padding.  Reacting means more
    than four times what arithmetic makes of the logits (see model.batch_equals_single), which are
    asked in float32 where that can be had; where that is as much as rows differ by, it abstains.

    How to fix: read at the right-most attended column:
    ``(attention_mask * torch.arange(width)).argmax(-1)``.

    Known false alarms: none known.  A mean over the text counts as reading it to its end.  Models
    that look ahead are skipped: there, every token reaches the one that is read.

    References: huggingface/transformers#24265, huggingface/transformers#46782,
    huggingface/peft#3620.
    """
    if probes.per_token:
        raise Skip("each token has its own logits: nothing is pooled")
    own, states = probes.own, probes.own.states
    if states is None:
        raise Skip("the states under the head are not visible, so it is not known what looks ahead")
    broken = not_numbers({
        "as trained": own,
        "with another last token": probes.changed,
        **{f"row {k} alone": output for k, output in enumerate(probes.alone)},
        **{f"row {k} alone with padding": output for k, output in enumerate(probes.alone_padded)},
        **{f"use_cache, pass {k}": output for k, output in enumerate(probes.cached)},
    })  # fmt: skip
    if not broken:
        if not within(change_before_the_last(probes.changed, own), probes.allowed_states):
            raise Skip("tokens look ahead in this model: each reaches the one that is read")
        abstain_if_hidden(probes)
    allowed = probes.allowed_logits
    cached = Difference(
        largest(difference(output.logits, own.logits) for output in probes.cached), allowed
    )
    if broken:
        yield broken
    else:
        yield from _misread(probes)
        if not cached.explained:
            yield Finding(
                f"use_cache changes the logits: {cached}",
                observed=cached.greatest,
                expected=f"at most {allowed:.3g}",
                where="use_cache",
                cause="what is read, or attended, depends on the cache",
                fix="model.config.use_cache = False",
                repairs=(setting("config", "use_cache", False),),
            )
    effect = difference(probes.changed.logits, own.logits)
    rows = len(own.logits)
    reacting = rows - len(probes.read_at)
    yield Measured(
        f"another last token changes the logits of {reacting} of {rows} rows, by up to "
        f"{effect:.2g}; logits with use_cache on and off: {cached}{probes.precision}",
        reacting,
        rows,
    )


def _misread(probes: Probes) -> Iterator[Finding]:
    """Yield a finding where the logits are read at another place than the last token."""
    allowed, where = probes.allowed_logits, f"padding on the {probes.side}"
    fix = "read at (attention_mask * torch.arange(width)).argmax(-1), the last attended column"
    padding, still = _padding_alone(probes)
    found = next(((k, at) for k, at in probes.read_at.items() if at is not None), None)
    if found is not None:
        k, at = found
        last = probes.rows.lengths[k] - 1
        yield Finding(
            f"a row of {last + 1} tokens is read at token {at} of 0 to {last}: "
            "its last token does not change its logits",
            observed=at,
            expected=last,
            where=where,
            cause="the place is counted otherwise than by the mask: the number of tokens, or a "
            "fixed column",
            fix=fix,
        )
    elif still and not padding.explained:
        yield Finding(
            f"padding changes the logits of a row alone and no token's state: {padding}",
            observed=padding.greatest,
            expected=f"at most {allowed:.3g}",
            where=where,
            cause="the logits are read from padding, for one from the last column of the batch",
            fix=fix,
        )
    elif probes.read_at:
        yield Finding(
            f"the logits of {len(probes.read_at)} rows react to no single token",
            observed=len(probes.read_at),
            expected=0,
            where=where,
            cause="the head reads something else than the text's states, or those of many tokens",
            fix=fix,
        )


def _padding_alone(probes: Probes) -> tuple[Difference, bool]:
    """Return what padding changes in the logits of rows alone; whether states stay as they are."""
    pairs = list(zip(probes.alone_padded, probes.alone, strict=True))
    moved = largest(difference(padded.logits, bare.logits) for padded, bare in pairs)
    states = [
        relative(padded.states, bare.states)
        for padded, bare in pairs
        if padded.states is not None and bare.states is not None
    ]
    still = all(within(one, probes.allowed_states) for one in states)
    return Difference(moved, probes.allowed_logits), still
