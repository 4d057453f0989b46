"""Shared by checks that compare the same rows in two arrangements."""

from __future__ import annotations

from collections.abc import Mapping

from trainsanity.measurements.model.probes import Outputs, Probes, relative
from trainsanity.types import Abstain, Finding


def not_numbers(outputs: Mapping[str, Outputs]) -> Finding | None:
    """Return a finding for the first arrangement with a NaN or an infinity at a row's own token."""
    for arrangement, output in outputs.items():
        values = [*output.logits, *(output.states or ())]
        bad = sum(int((~one.isfinite()).sum()) for one in values)
        if bad:
            return Finding(
                f"{bad} logits or states of the rows' own tokens are not finite: {arrangement}",
                observed=bad,
                expected=0,
                where=arrangement,
                cause="an overflow, or a softmax over a row that the mask hides as a whole",
                fix="run the model on these rows in float32, with torch.autograd.detect_anomaly",
            )
    return None


def change_before_the_last(changed: Outputs, before: Outputs) -> float:
    """Return how much the states before the last token moved, relative to their norm."""
    assert changed.states is not None
    assert before.states is not None
    return relative([one[:-1] for one in changed.states], [one[:-1] for one in before.states])


def abstain_if_hidden(probes: Probes) -> None:
    """Abstain where rows differ from each other by no more than arithmetic.

    Raises:
        Abstain: they do.
    """
    if probes.per_token or len(probes.own.logits) < 2:
        return
    import torch

    between = float(torch.stack(probes.own.logits).std(dim=0).mean())
    if probes.allowed_logits >= between:
        raise Abstain(
            f"rows differ from each other by {between:.2g}, "
            f"which arithmetic noise of {probes.allowed_logits:.2g} would hide"
        )
