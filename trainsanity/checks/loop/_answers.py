"""Findings about metrics: positions, padding, what is generated, and the prompt before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loop._metrics import close, number
from trainsanity.types import Finding, Severity

if TYPE_CHECKING:
    from trainsanity.measurements.runs.scored import Scored

OWN = ("runtime", "per_second", "model_preparation_time", "loss", "epoch", "samples", "steps")
"""Metrics that the Trainer adds by itself, by the end of their names."""

SHIFTED_WINS = 0.5
"""A metric that is moved less than half as far by the right predictions as by those that are one
position off is one of other positions.  A last resort: any between 0 and 1 tells the two apart."""


def positions(scored: Scored) -> Iterator[Finding]:
    """Yield metrics that look at another position, or at padding."""
    for name, value in scored.perfect.items():
        if added(name):
            continue
        right, wrong = number(value), number(scored.wrong.get(name))
        padded, in_place = number(scored.padded.get(name)), number(scored.in_place.get(name))
        if right is None or wrong is None:
            continue
        if in_place is not None and abs(right - wrong) < SHIFTED_WINS * abs(in_place - wrong):
            yield Finding(
                f"{name} of a perfect model is {right:.4g}, like a wrong one's {wrong:.4g}; of one "
                f"that repeats each token at its own position it is {in_place:.4g}: predictions "
                "are not shifted",
                observed={"next token": right, "same position": in_place},
                expected="the next token's is the best",
                where="compute_metrics",
                cause="the output at a position predicts the next token, and is compared with the "
                "label at its own position",
                fix="compare predictions[:, :-1] with labels[:, 1:]",
            )
        elif padded is not None and not close(right, padded) and not close(right, wrong):
            yield Finding(
                f"{name} of perfect predictions is {right:.4g}, and {padded:.4g} with as much "
                "padding again: labels of -100 are scored",
                observed=padded,
                expected=right,
                where="compute_metrics",
                cause="positions with the label -100 (padding) are not masked out of the metric",
                fix="compare only where labels != -100",
            )


def generated(scored: Scored, during: bool) -> Iterator[Finding]:
    """Yield a limit that cuts what is generated short."""
    cut = sum(length > scored.limit for length in scored.targets) if scored.limit else 0
    if 2 * cut > len(scored.targets):
        yield Finding(
            f"generation is cut after {scored.limit} tokens, and {cut} of {len(scored.targets)} "
            "targets are longer: the metrics are those of the beginnings",
            observed=scored.limit,
            expected=max(scored.targets),
            where="generation_max_length",
            cause="generation_max_length is not set, or shorter than the targets: max_length of "
            "the generation config (20 by default) holds",
            fix=f"generation_max_length={max(scored.targets) + 2}",
            # evaluate() takes max_length as well, and here only the script itself calls it.
            severity=Severity.FAILURE if during else Severity.WARNING,
        )


def with_prompt(scored: Scored) -> Iterator[Finding]:
    """Yield metrics that tell right answers from wrong ones only where the prompt is left out."""
    written = scored.written
    for name in written.right:
        values = (of.get(name) for of in (written.right, written.wrong, written.bare,
                                          written.bare_wrong))  # fmt: skip
        right, wrong, bare, bare_wrong = map(number, values)
        if added(name) or right is None or wrong is None or bare is None or bare_wrong is None:
            continue
        if abs(right - wrong) < SHIFTED_WINS * abs(bare - bare_wrong):
            yield Finding(
                f"{name} of answers that are the labels is {right:.4g} and of other rows' answers "
                f"{wrong:.4g}, as generate() returns them, behind the prompt; without the prompt "
                f"it is {bare:.4g} and {bare_wrong:.4g}: the prompt stays in the prediction",
                observed={"right": right, "wrong": wrong},
                expected={"right": bare, "wrong": bare_wrong},
                where="prediction_step",
                cause="a decoder's generate() returns the prompt before what it wrote",
                fix="written[:, inputs['input_ids'].shape[1]:] before it is compared",
            )


def added(name: str) -> bool:
    """Return whether the Trainer adds a metric by itself."""
    return name.endswith(OWN)
