"""TS4: a few rows asked in other ways, which must not matter, or must."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..measurements.probes import OTHER, WIDER, Look, Probes, difference, relative
from ..registry import check
from ..tolerances import largest, logits_difference, within
from ..types import Abstain, Cost, Finding, Seen, Skip

READABLE = (
    "collator.rows_recovered",
    "collator.mask_is_exact",
    "tokenizer.config_agrees",
    "model.logits_finite",
)
"""Without these it is not known where the rows are, or there is nothing to compare."""


@check(
    "TS406",
    "model.eval_is_repeatable",
    cost=Cost.FORWARD,
    requires=READABLE,
    acquits="dropout in eval",
)
def eval_is_repeatable(probes: Probes) -> Iterator[Seen | Finding]:
    """The same rows give the same logits twice in eval mode.

    What it checks: two evaluation forwards over the same batch, one after the other.

    Why it matters: dropout that ``model.eval()`` does not switch off makes every evaluation a
    draw, keeps the best checkpoint from being the best, and hides what else differs.

    How it is measured: largest absolute difference of the logits.  Same rows, same shape: what is
    allowed is torch.testing's relative tolerance for the dtype, for kernels that add in no fixed
    order.

    How to fix: ``torch.nn.functional.dropout(x, p, training=self.training)``, or a
    ``torch.nn.Dropout`` that is a submodule of the model.

    Known false alarms: models that sample by design.

    References: huggingface/transformers#33844.
    """
    size = largest(float(one.abs().max()) for one in probes.own.logits)
    allowed = logits_difference(probes.dtype, 0.0, size)
    seen = difference(probes.own.logits, probes.again.logits)
    if not within(seen, allowed):
        yield Finding(
            f"two evaluation forwards over the same rows differ by {seen:.3g} in the logits; "
            f"arithmetic explains {allowed:.2g}",
            observed=seen,
            expected=f"at most {allowed:.3g}",
            where="the model in eval mode",
            cause="dropout, or another random draw, that does not look at self.training",
            fix="F.dropout(x, p, training=self.training), or nn.Dropout as a submodule",
        )
    yield Seen(f"two evaluation forwards differ by {seen:.2g} (allowed {allowed:.2g})",
               seen, allowed)  # fmt: skip


@check(
    "TS407",
    "model.padding_invariance",
    cost=Cost.FORWARD,
    requires=("model.mask_is_obeyed", "model.read_at_the_end"),
    acquits="pad_to_multiple_of",
)
def padding_invariance(probes: Probes) -> Iterator[Seen | Finding]:
    """More padding, or padding on the other side, changes nothing.

    What it checks: the logits of a few rows padded as the pipeline pads, against 64 more columns of
    padding on the same side; and the state of each of their tokens when they are padded on the
    other side.

    Why it matters: how much padding a row gets depends on its neighbours and on
    ``pad_to_multiple_of``.  A model that counts positions from the first column learns other
    positions in every batch, and what is served with another padding is not what was trained.

    How it is measured: largest absolute difference of logits, largest relative difference of
    states.  Four times the difference between rows alone and among copies of themselves is
    allowed, or torch.testing's relative tolerance for the dtype, for states times the root of the
    number of layers.  The other side is judged where the model takes ``position_ids``: there mask
    and positions are all that padding may change, so the states must agree, with the model's own
    positions or with those that the mask gives.  The pooled logits are not compared there: a first
    token that is pooled is the first on one side only.

    How to fix: count positions from the mask, ``(attention_mask.cumsum(-1) - 1).clamp(min=0)``; or
    pad on the side that the model was made for.

    Known false alarms: recurrent and convolutional layers that run over padding before a text;
    positions that a model offsets by its own pad id and that are given explicitly.

    References: jy-yuan/KIVI#46, huggingface/transformers#29029.
    """
    looks = {"as trained": probes.own, f"{WIDER} columns wider": probes.wider}
    broken = _not_numbers(looks | probes.elsewhere)
    if broken:
        yield broken
        return
    allowed = probes.allowed_logits
    wider = difference(probes.own.logits, probes.wider.logits)
    _abstain_if_hidden(probes)
    if not within(wider, allowed):
        yield Finding(
            f"{WIDER} more columns of padding on the {probes.side} change the logits by "
            f"{wider:.3g}; arithmetic explains {allowed:.2g}",
            observed=wider,
            expected=f"at most {allowed:.3g}",
            where=f"padding on the {probes.side}, as trained",
            cause="positions are counted from the first column, padding included",
            fix="derive position_ids from the attention mask, or pad on the other side",
        )
    other, said = OTHER[probes.side], ""
    # Where more padding matters on its own side, the rows are no measure for the other.
    if within(wider, allowed) and probes.elsewhere and probes.own.states is not None:
        near = probes.allowed_states
        by_way = {
            way: relative(look.states, probes.own.states)
            for way, look in probes.elsewhere.items()
            if look.states is not None
        }
        least = min(by_way.values(), default=math.nan)
        if by_way and not within(least, near):
            yield Finding(
                f"padded on the {other} instead of the {probes.side}, the tokens' states change by "
                f"{least:.3g} of their norm, whatever positions are given; "
                f"arithmetic explains {near:.2g}",
                observed=by_way,
                expected=f"at most {near:.3g}",
                where=f"padding on the {other}, which this run does not use",
                cause="the model drops the attention mask on its way to the attention",
                fix="hand attention_mask on to every layer that mixes tokens",
            )
        said = f"; on the {other} states differ by {least:.2g} (allowed {near:.2g})"
    yield Seen(
        f"{WIDER} more columns on the {probes.side} change logits by {wider:.2g} "
        f"(noise {probes.logits_noise:.2g}, allowed {allowed:.2g}){said}",
        wider,
        allowed,
    )


@check(
    "TS408",
    "model.mask_is_obeyed",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    acquits="attention mask",
)
def mask_is_obeyed(probes: Probes) -> Iterator[Seen | Finding]:
    """What the mask hides is not seen.

    What it checks: other ids in the place of PAD, with the mask still 0 there, leave the state of
    every token of the rows as it was; and whether the same ids under a mask of ones would matter.

    Why it matters: a mask that gets lost on the way makes a text's meaning depend on how much
    padding stands before it.  On the left every token sees it, on the right only where attention
    looks ahead.

    How it is measured: largest difference of a token's state relative to its norm, between two
    batches of one shape; of the logits where no states are visible.  Allowed is four times the
    difference between rows alone and among copies of themselves, or torch.testing's relative
    tolerance for the dtype.  States and not pooled logits, because generic heads find the end of a
    text by its ids, which are what is changed here.

    How to fix: hand ``attention_mask`` on to the model and to each layer that mixes tokens.

    Known false alarms: models that find their positions by the pad id and are padded on the left.

    References: jy-yuan/KIVI#46, huggingface/transformers#35352.
    """
    broken = _not_numbers({
        "as trained": probes.own,
        "with other ids under mask 0": probes.refilled,
        "with a mask of ones": probes.unmasked,
    })  # fmt: skip
    if broken:
        yield broken
        return
    hidden, allowed, what = _moved(probes, probes.refilled)
    shown, _, _ = _moved(probes, probes.unmasked)
    if not within(hidden, allowed):
        yield Finding(
            f"other ids under mask 0, {_place(probes)}, change {what} by {hidden:.3g}; "
            f"arithmetic explains {allowed:.2g}",
            observed=hidden,
            expected=f"at most {allowed:.3g}",
            where=f"padding on the {probes.side}",
            factor=None,
            cause="the attention mask is dropped, or does not reach every layer",
            fix="pass attention_mask to the model and on to every layer that mixes tokens",
        )
    needed = (
        f"a mask of ones would change {what} by {shown:.2g}"
        if not within(shown, allowed)
        else f"padding {_place(probes)} reaches no token even without a mask"
    )
    yield Seen(
        f"ids under mask 0 change {what} by {hidden:.2g} (allowed {allowed:.2g}); {needed}",
        {"masked": hidden, "unmasked": shown},
        allowed,
    )


@check(
    "TS409",
    "model.read_at_the_end",
    cost=Cost.FORWARD,
    requires=("model.right_token_pooled", "model.mask_is_obeyed", "model.causal"),
    acquits="PAD / EOS",
)
def read_at_the_end(probes: Probes) -> Iterator[Seen | Finding]:
    """A row's logits are read at its last token, seen from outside.

    What it checks: for a causal classifier, that the logits react to the last attended token and
    not to padding behind or before it, with ``use_cache`` on and off.

    Why it matters: a head that reads the last column reads padding; one that reads at the number
    of tokens reads inside the text once padding stands on the left.  The loss looks normal.

    How it is measured: the last token of each row is changed.  In a causal model logits react to
    every token up to the one that is read and to none behind it.  Rows that do not react have each
    token changed in turn, which gives the place.  Where padding changes the logits of a row by
    itself though it changes no token's state, the place is in the padding.  Reacting means more
    than four times the difference between rows alone and among copies of themselves, or
    torch.testing's relative tolerance; where that is as much as rows differ by, it abstains.

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
    broken = _not_numbers({
        "as trained": own,
        "with another last token": probes.changed,
        **{f"row {k} alone": look for k, look in enumerate(probes.alone)},
        **{f"row {k} alone with padding": look for k, look in enumerate(probes.alone_padded)},
        **{f"use_cache, look {k}": look for k, look in enumerate(probes.cached)},
    })  # fmt: skip
    if broken:
        yield broken
        return
    if not within(_ahead(probes.changed, own), probes.allowed_states):
        raise Skip("tokens look ahead in this model: each reaches the one that is read")
    _abstain_if_hidden(probes)
    allowed, where = probes.allowed_logits, f"padding on the {probes.side}"
    fix = "read at (attention_mask * torch.arange(width)).argmax(-1), the last attended column"
    behind, still = _padding_alone(probes)
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
            cause="the head reads at the number of tokens, or at a fixed place, not at the last "
            "attended column",
            fix=fix,
        )
    elif still and not within(behind, allowed):
        yield Finding(
            f"padding changes the logits of a row alone by {behind:.3g} and no token's state: "
            "the logits are read from padding",
            observed=behind,
            expected=f"at most {allowed:.3g}",
            where=where,
            cause="the head reads the last column, whether it is text or padding",
            fix=fix,
        )
    elif probes.read_at:
        yield Finding(
            f"the logits of {len(probes.read_at)} rows react to no single token",
            observed=len(probes.read_at),
            expected=0,
            where=where,
            cause="the head reads something else than the states of the text",
            fix=fix,
        )
    cached = largest(difference(look.logits, own.logits) for look in probes.cached)
    if not within(cached, allowed):
        yield Finding(
            f"use_cache changes the logits by {cached:.3g}; arithmetic explains {allowed:.2g}",
            observed=cached,
            expected=f"at most {allowed:.3g}",
            where="use_cache",
            cause="what is read, or attended, depends on the cache",
            fix="model.config.use_cache = False",
        )
    effect = difference(probes.changed.logits, own.logits)
    tokens = len(own.logits)
    yield Seen(
        f"another last token changes the logits of {tokens - len(probes.read_at)} of {tokens} rows "
        f"(by up to {effect:.2g}, allowed {allowed:.2g}); use_cache by {cached:.2g}",
        tokens - len(probes.read_at),
        tokens,
    )


@check(
    "TS410",
    "model.causal",
    cost=Cost.FORWARD,
    requires=("model.eval_is_repeatable",),
    acquits="attention mask",
)
def causal(probes: Probes) -> Iterator[Seen | Finding]:
    """Later tokens do not change what earlier ones say.

    What it checks: another last token leaves the states of all tokens before it as they were, in a
    padded batch and in a row alone, of a model that is causal by its task or by its attention
    modules (``is_causal``).

    Why it matters: a language model that sees the next token learns to copy it.  The loss falls
    fast and generation is noise.  Attention kernels are often handed no mask at all where nothing
    is padded, and then have to know by themselves.

    How it is measured: largest difference of a token's state relative to its norm, between two
    batches of one shape that differ in one id.  Allowed is torch.testing's relative tolerance for
    the dtype, or four times the measured noise.

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
    broken = _not_numbers({
        "as trained": probes.own,
        "with another last token": probes.changed,
        "a row alone": probes.alone[0],
        "a row alone with another last token": probes.alone_changed,
    })  # fmt: skip
    if broken:
        yield broken
        return
    allowed = probes.allowed_states
    seen = {
        "in a padded batch": _ahead(probes.changed, probes.own),
        "in a row alone": _ahead(probes.alone_changed, probes.alone[0]),
    }
    for where, moved in seen.items():
        if not within(moved, allowed):
            yield Finding(
                f"{where}, another last token changes the states of tokens before it by "
                f"{moved:.3g} of their norm, but {probes.causal}",
                observed=moved,
                expected=f"at most {allowed:.3g}",
                where=where,
                cause="the attention implementation leaves the causal mask out",
                fix="set is_causal=True where no mask is given, or another attn_implementation",
            )
            break
    yield Seen(
        f"another last token changes earlier states by {largest(seen.values()):.2g} "
        f"(allowed {allowed:.2g}): {probes.causal}",
        seen,
        allowed,
    )


def _not_numbers(looks: Mapping[str, Look]) -> Finding | None:
    """A NaN or an infinity at a row's own tokens, in whichever way the rows are asked."""
    for how, look in looks.items():
        said = [*look.logits, *(look.states or ())]
        bad = sum(int((~one.isfinite()).sum()) for one in said)
        if bad:
            return Finding(
                f"{bad} logits or states of the rows' own tokens are not finite: {how}",
                observed=bad,
                expected=0,
                where=how,
                cause="an overflow, or a softmax over a row that the mask hides as a whole",
                fix="ask the model in that way in float32, with torch.autograd.detect_anomaly",
            )
    return None


def _ahead(changed: Look, before: Look) -> float:
    """How much the states before the last token moved."""
    assert changed.states is not None
    assert before.states is not None
    return relative([one[:-1] for one in changed.states], [one[:-1] for one in before.states])


def _padding_alone(probes: Probes) -> tuple[float, bool]:
    """What padding changes in the logits of rows by themselves; whether states stay as they are."""
    pairs = list(zip(probes.alone_padded, probes.alone, strict=True))
    moved = largest(difference(padded.logits, bare.logits) for padded, bare in pairs)
    states = [
        relative(padded.states, bare.states)
        for padded, bare in pairs
        if padded.states is not None and bare.states is not None
    ]
    return moved, all(within(one, probes.allowed_states) for one in states)


def _moved(probes: Probes, look: Look) -> tuple[float, float, str]:
    if look.states is None or probes.own.states is None:
        return difference(look.logits, probes.own.logits), probes.allowed_logits, "logits"
    return relative(look.states, probes.own.states), probes.allowed_states, "the tokens' states"


def _place(probes: Probes) -> str:
    return "before the text" if probes.side == "left" else "behind the text"


def _abstain_if_hidden(probes: Probes) -> None:
    """Nothing can be told where rows differ by no more than arithmetic."""
    if probes.per_token or len(probes.own.logits) < 2:
        return
    import torch

    between = float(torch.stack(probes.own.logits).std(dim=0).mean())
    if probes.allowed_logits >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {probes.allowed_logits:.2g} would hide"
        )
