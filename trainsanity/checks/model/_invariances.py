"""Shared by checks of the model stage."""

from __future__ import annotations

from collections.abc import Mapping

from trainsanity.measurements.model.probes import Look, Probes, relative
from trainsanity.types import Abstain, Finding


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
