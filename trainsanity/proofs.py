"""Repairs of a pipeline, and what was seen when one was tried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Proved(StrEnum):
    """What became of a repair that was tried."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNPROVED = "not proved"
    UNTRIED = "not tried"


@dataclass(frozen=True)
class Repair:
    """A change of the pipeline that :mod:`trainsanity.repairs` applies and undoes, as a value.

    Attributes:
        words: the change as a user would write it.
        kind: the name of the function in :mod:`trainsanity.repairs` that applies it.
        arguments: what that function is given, by name.
        cause: the finding's cause where this repair is the one that is proved; None keeps it.
        fix: likewise.
        then: the check that judges what the repair puts in the place of what was wrong, where the
            finding's own check does not apply to that.
    """

    words: str
    kind: str
    arguments: tuple[tuple[str, Any], ...] = ()
    cause: str | None = None
    fix: str | None = None
    then: str | None = None

    def __hash__(self) -> int:
        """Return a hash that does not ask for hashable arguments."""
        return hash((self.words, self.kind))


@dataclass(frozen=True)
class Proof:
    """What was seen when a finding's repair was applied and its check judged again.

    Attributes:
        status: proved; refuted, if the finding is still there with the repair; not proved, if it
            is gone and something else fails that passed; not tried.
        sentence: what was tried and seen, or why nothing was.
        repair: the words of the repair that was tried last, or proved.
        before: the measured value without it (JSON).
        after: the measured value with it (JSON).
        green: codes of the checks that pass with it and did not without.
        red: codes of the checks that fail with it and passed without.
    """

    status: Proved
    sentence: str
    repair: str = ""
    before: Any = None
    after: Any = None
    green: tuple[str, ...] = ()
    red: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding's ``proof`` in the JSON report."""
        return {
            "status": str(self.status),
            "sentence": self.sentence,
            "repair": self.repair,
            "before": self.before,
            "after": self.after,
            "green": list(self.green),
            "red": list(self.red),
        }
