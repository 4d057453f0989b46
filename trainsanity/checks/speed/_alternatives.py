"""Findings of settings that make a step quicker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trainsanity.maths.repetitions import WORTH
from trainsanity.measurements.speed.figures import Alternative
from trainsanity.types import Finding, Severity


def quicker(
    alternatives: Sequence[Alternative], headline: str, cause: str, fixes: dict[str, str]
) -> Iterator[Finding]:
    """Yield a warning for each setting whose gain is beyond the noise and worth a change.

    Args:
        alternatives: that were timed.
        headline: with ``{now}``, ``{name}`` and ``{ratio}`` to be filled in.
        cause: why that is so.
        fixes: by the kind of the alternative, with ``{name}``.
    """
    for one in alternatives:
        if not one.ratio.worth or one.agrees is False:
            continue
        same = {True: ", and the loss agrees", None: ""}[one.agrees]
        yield Finding(
            headline.format(now=one.now, name=one.name, ratio=one.ratio) + same,
            observed=round(one.ratio.value, 4),
            expected={"at_least": round(1 - WORTH - one.ratio.noise, 4)},
            where=one.kind,
            factor=one.ratio.value,
            cause=cause,
            fix=fixes[one.kind].format(name=one.name),
            severity=Severity.WARNING,
        )


def listed(alternatives: Sequence[Alternative]) -> str:
    """Return what was timed, in words."""
    words = [
        f"{one.kind} {one.name} in place of {one.now}: {one.ratio} the step"
        + (f" ({one.words})" if one.agrees is False else "")
        for one in alternatives
    ]
    return "; ".join(words)


def numbers(alternatives: Sequence[Alternative]) -> dict[str, Any]:
    """Return the same as JSON values."""
    return {
        f"{one.kind} {one.name}": {
            "in_place_of": one.now,
            "ratio": round(one.ratio.value, 4),
            "noise": round(one.ratio.noise, 4),
            "rounds": one.ratio.rounds,
            "loss_agrees": one.agrees,
        }
        for one in alternatives
    }


def of_kinds(alternatives: Sequence[Alternative], *kinds: str) -> list[Alternative]:
    """Return those of some kinds."""
    return [one for one in alternatives if one.kind in kinds]


def untried(sentences: Sequence[str], *kinds: str) -> str:
    """Return why settings of these kinds were not timed, to follow what was."""
    words = [one for one in sentences if one.startswith(kinds)]
    return f"; not measured: {'; '.join(words)}" if words else ""
