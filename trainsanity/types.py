"""What a check is, and what it may say.

A check is one invariant of a fine-tuning pipeline.  Its function names the measurements it wants
as parameters and yields what it saw: at most one :class:`Seen` (the measured value beside the
computed one, kept also when all is well) and a :class:`Finding` for everything that is wrong.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

STAGES = (
    "tokenizer",
    "dataset",
    "collator",
    "model",
    "loss",
    "gradient",
    "update",
    "schedule",
    "loop",
)
"""The stages in the order in which data flows; the first that fails is where to look."""


class Cost(IntEnum):
    """What a check costs at the most: no model, one forward, a backward, a Trainer step, a run."""

    STATIC = 0
    FORWARD = 1
    BACKWARD = 2
    STEP = 3
    RUN = 4


class Status(StrEnum):
    """How a check ended.  Only ``pass`` and ``xfail`` are good news."""

    PASS = "pass"
    FAIL = "fail"
    XFAIL = "xfail"
    XPASS = "xpass"
    SKIP = "skip"
    BLOCKED = "blocked"
    ABSTAIN = "abstain"
    ERROR = "error"


RAN = frozenset({Status.PASS, Status.FAIL, Status.XFAIL, Status.XPASS})
"""The statuses of checks that reached a verdict."""


class Skip(Exception):
    """Raised in a check or a measurement that does not apply here; the text is the reason."""


class Blocked(Exception):
    """Raised in a measurement for which a fault leaves nothing; the text is the reason.

    Attributes:
        by: the name of the check that judges the fault.
    """

    def __init__(self, reason: str, by: str) -> None:
        super().__init__(reason)
        self.by = by


class Abstain(Exception):
    """Raised when the measured noise is as large as the effect that the check looks for."""


@dataclass(frozen=True)
class Seen:
    """What was measured and what the mathematics says, in one sentence and two values.

    ``message`` is read by people, also as the number that acquits a suspect; ``observed`` and
    ``expected`` are JSON values.
    """

    message: str
    observed: Any = None
    expected: Any = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, as a value that a test can compare.

    Attributes:
        message: what was seen and why that is wrong, in one or two sentences.
        observed: the measured value (JSON).
        expected: the computed value (JSON).
        where: the place: a row, a parameter name, a setting.
        factor: observed / expected where that is one number.
        cause: the most likely cause.
        fix: the change to make.
        candidates: the known quantities of the run that the factor equals, by name; more than one
            fit equally well.
    """

    message: str
    observed: Any = None
    expected: Any = None
    where: str | None = None
    factor: float | None = None
    cause: str | None = None
    fix: str | None = None
    candidates: tuple[str, ...] = ()


CheckFunction = Callable[..., Iterable[Seen | Finding]]


@dataclass(frozen=True)
class Check:
    """One invariant.

    Attributes:
        code: ``TSnxx``, never reused; other prefixes belong to other packages.
        name: ``stage.invariant``.
        fn: yields :class:`Seen` and :class:`Finding`; its parameters name measurements, or
            ``pipeline`` itself.  Its docstring is the page that ``trainsanity explain`` prints.
        cost: the most that its measurements cost.
        needs: attributes of the pipeline without which there is nothing to judge.
        requires: checks that must not have failed, because this one cannot be judged then.
        explained_by: checks whose failure by the same factor explains a failure here.
        acquits: the suspect that a pass speaks for, in the words people use.
        stops: what fails this check can stop a training step, so that a measurement which raises
            after it has failed says nothing of its own.
    """

    code: str
    name: str
    fn: CheckFunction
    cost: Cost = Cost.STATIC
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    explained_by: tuple[str, ...] = ()
    acquits: str | None = None
    stops: bool = False

    @property
    def stage(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def looks(self) -> tuple[str, ...]:
        """What the function asks for, by parameter name."""
        return tuple(inspect.signature(self.fn).parameters)

    @property
    def page(self) -> str:
        """The documentation page: the function's docstring."""
        return inspect.getdoc(self.fn) or ""

    @property
    def title(self) -> str:
        """The first line of the page."""
        return self.page.partition("\n")[0]

    @property
    def keywords(self) -> tuple[str, ...]:
        """What ``-k`` matches beside the test's own name."""
        return (self.code, self.name, self.stage)

    @property
    def order(self) -> tuple[int, str]:
        """Stage first, then code."""
        return (STAGES.index(self.stage), self.code)


@dataclass(frozen=True)
class Result:
    """How one check ended on one pipeline."""

    check: Check
    pipeline_id: str
    status: Status
    findings: tuple[Finding, ...] = ()
    observed: Any = None
    expected: Any = None
    message: str = ""
    reason: str = ""
    seconds: float = 0.0
    blocked_by: str | None = None
    debug: str = field(default="", compare=False)

    @property
    def factor(self) -> float | None:
        """The first finding's factor."""
        return self.findings[0].factor if self.findings else None

    def as_dict(self) -> dict[str, Any]:
        """The row of the JSON report (schema 1)."""
        first = self.findings[0] if self.findings else Finding(self.message)
        return {
            "code": self.check.code,
            "name": self.check.name,
            "stage": self.check.stage,
            "status": str(self.status),
            "observed": self.observed,
            "expected": self.expected,
            "factor": first.factor,
            "message": " ".join(f.message for f in self.findings) or self.message,
            "cause": first.cause,
            "fix": first.fix,
            "where": first.where,
            "candidates": list(first.candidates),
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
        }
