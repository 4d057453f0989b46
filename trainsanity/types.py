"""A check, what it yields, and how it ends.

A check is one invariant of a fine-tuning pipeline.  Its function names the measurements it needs
as parameters.  It yields exactly one :class:`Measured`, the measured value beside the computed one
in words that are true whether or not the check fails, and a :class:`Finding` for each thing that is
wrong.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from trainsanity.proofs import Proof, Repair

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
    "speed",
)
"""The stages in the order in which data flows; the first that fails is where to look.  How fast
that goes comes last: nothing there is wrong."""


class Cost(IntEnum):
    """The most that a check costs: no model, one forward, a backward, a Trainer step, a run."""

    STATIC = 0
    FORWARD = 1
    BACKWARD = 2
    STEP = 3
    RUN = 4


class Severity(StrEnum):
    """How bad a finding is: a warning is harmless as measured, or a choice that people make."""

    FAILURE = "failure"
    WARNING = "warning"


class Judges(StrEnum):
    """Which number of the training step a check holds against a computed one."""

    LOSS = "loss"
    GRADIENT = "gradient"


class Status(StrEnum):
    """How a check ended.  ``pass``, ``warning`` and ``xfail`` leave the exit code at 0."""

    PASS = "pass"
    WARNING = "warning"
    FAIL = "fail"
    XFAIL = "xfail"
    XPASS = "xpass"
    SKIP = "skip"
    BLOCKED = "blocked"
    ABSTAIN = "abstain"
    ERROR = "error"


NOTHING = "this pipeline has no "
"""Begins the reason of a check that asks for a part which is not there."""

RAN = frozenset({Status.PASS, Status.WARNING, Status.FAIL, Status.XFAIL, Status.XPASS})
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


OUTCOMES = (Skip, Blocked, Abstain)
"""What is raised in the place of a value: nobody's error, and to be let through, or told in its own
words, where any error of the user's code is caught."""


@dataclass(frozen=True)
class Measured:
    """The measured value and the computed one, with a sentence that is true of both outcomes.

    Attributes:
        message: neutral: "2 of 400 rows repeat an earlier one", never "no row repeats".  On a pass
            it is the number that rules a suspect out.
        observed: the measured value (JSON).
        expected: the computed value (JSON).
    """

    message: str
    observed: Any = None
    expected: Any = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, as a value that a test can compare.

    Attributes:
        headline: what was measured and why that is wrong, in one or two sentences.
        observed: the measured value (JSON).
        expected: the computed value (JSON).
        where: the place: a row, a parameter name, a setting.
        factor: observed / expected where that is one number.
        cause: the most likely cause.
        fix: the change to make.
        candidates: the known quantities of the run that the factor equals, by name; more than one
            fit equally well.
        tested: which other quantities it equals as well, and what was measured that rules them out;
            None where nothing had to be told apart.
        severity: ``failure``, or ``warning`` for what is harmless as measured or a choice.
        repairs: changes that may mend it, the likeliest first; see :mod:`trainsanity.engine.proof`.
        proof: what trying them showed; None if none was tried.

    Raises:
        ValueError: the severity is neither.
    """

    headline: str
    observed: Any = None
    expected: Any = None
    where: str | None = None
    factor: float | None = None
    cause: str | None = None
    fix: str | None = None
    candidates: tuple[str, ...] = ()
    tested: str | None = None
    severity: Severity = Severity.FAILURE
    repairs: tuple[Repair, ...] = field(default=(), compare=False)
    proof: Proof | None = None

    def __post_init__(self) -> None:
        if self.severity not in tuple(Severity):
            raise ValueError(f"severity {self.severity!r}: give {' or '.join(Severity)}")
        # A plain "failure" is accepted and must not be taken for something else.
        object.__setattr__(self, "severity", Severity(self.severity))

    def as_dict(self) -> dict[str, Any]:
        """Return the finding's row in the JSON report."""
        return {
            "severity": str(self.severity),
            "headline": self.headline,
            "observed": self.observed,
            "expected": self.expected,
            "factor": self.factor,
            "where": self.where,
            "cause": self.cause,
            "fix": self.fix,
            "candidates": list(self.candidates),
            **({"tested": self.tested} if self.tested else {}),
            **({} if self.proof is None else {"proof": self.proof.as_dict()}),
        }


CheckFunction = Callable[..., Iterable[Measured | Finding]]


@dataclass(frozen=True)
class Check:
    """One invariant.

    Attributes:
        code: ``TSnxx``, never reused; other prefixes belong to other packages.
        name: ``stage.invariant``.
        fn: yields one :class:`Measured` and any :class:`Finding`; its parameters name
            measurements, or ``pipeline`` itself.  Its docstring is the page that ``trainsanity
            explain`` prints.
        cost: the most that its measurements cost.
        needs: attributes of the pipeline without which there is nothing to judge.
        requires: checks that must not have failed, because this one cannot be judged then.
        explained_by: checks whose failure by the same factor, with the same cause in the same
            words, or with the same repair, explains a failure here.
        follows: checks whose failure brings a failure here about, whatever its factor.
        rules_out: the suspect that a pass speaks for, in the words people use.
        stops: what fails this check can stop a training step, so that a measurement which raises
            after it has failed says nothing of its own.
        judges: ``loss`` or ``gradient`` where the check holds it against a computed value.  A run
            in which no such check reached a verdict is incomplete.
    """

    code: str
    name: str
    fn: CheckFunction
    cost: Cost = Cost.STATIC
    needs: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    explained_by: tuple[str, ...] = ()
    follows: tuple[str, ...] = field(default=(), kw_only=True)
    rules_out: str | None = None
    stops: bool = False
    judges: Judges | None = None

    @property
    def stage(self) -> str:
        """The part of the name before the dot."""
        return self.name.partition(".")[0]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the measurements that the function needs."""
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
        """Return the words that ``-k`` matches beside the test's own name."""
        return (self.code, self.name, self.stage)

    @property
    def order(self) -> tuple[int, str]:
        """Stage first, then code."""
        return (STAGES.index(self.stage), self.code)


@dataclass(frozen=True)
class Result:
    """How one check ended on one pipeline.

    ``message`` is the neutral sentence of :class:`Measured`; ``reason`` says why there is no
    verdict, or why a failure is accepted.
    """

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

    @classmethod
    def of(cls, check: Check, pipeline_id: str, yielded: Iterable[Any]) -> Result:
        """Fold what a check yielded into its result.

        A check that yields no :class:`Measured`, two of them, something else, or a number that is
        none and no failure beside it, has shown nothing: that is an error.
        """
        items = list(yielded)
        findings = tuple(item for item in items if isinstance(item, Finding))
        measured = [item for item in items if isinstance(item, Measured)]
        failed = any(finding.severity is Severity.FAILURE for finding in findings)
        error = ""
        if strange := [item for item in items if not isinstance(item, Finding | Measured)]:
            error = f"the check yielded {strange[0]!r}; it may yield Measured and Finding"
        elif len(measured) != 1:
            error = f"the check yielded {len(measured) or 'no'} Measured; it has to yield one"
        elif not failed and (odd := _not_a_number(measured[0])):
            error = f"the check passed with {odd}, and what is no number shows nothing"
        if error:
            return cls(check, pipeline_id, Status.ERROR, reason=error)
        # The first failure stands for the result, before any warning.
        shown = sorted(findings, key=lambda finding: finding.severity is Severity.WARNING)
        first = shown[0] if shown else measured[0]
        return cls(
            check,
            pipeline_id,
            Status.FAIL if failed else Status.WARNING if findings else Status.PASS,
            tuple(shown),
            observed=first.observed,
            expected=first.expected,
            message=measured[0].message,
        )

    def __repr__(self) -> str:
        """Return check, status and what it says, in one line."""
        said = " ".join(finding.headline for finding in self.findings)
        said = " ".join((said or self.reason or self.message).split())
        name = f"{self.check.code} {self.check.name}"
        return f"<{name}: {self.status}{f': {said}' if said else ''}>"

    @property
    def factor(self) -> float | None:
        """The first finding's factor."""
        return self.findings[0].factor if self.findings else None

    def as_dict(self) -> dict[str, Any]:
        """Return the row of the JSON report (schema 2).

        ``cause``, ``fix``, ``where``, ``factor`` and ``candidates`` are those of the first finding,
        as schema 1 had them; ``findings`` has all.
        """
        first = self.findings[0] if self.findings else Finding(self.message)
        return {
            "code": self.check.code,
            "name": self.check.name,
            "stage": self.check.stage,
            "status": str(self.status),
            "observed": self.observed,
            "expected": self.expected,
            "factor": first.factor,
            "message": " ".join(f.headline for f in self.findings) or self.message,
            "measured": self.message,
            "findings": [finding.as_dict() for finding in self.findings],
            "cause": first.cause,
            "fix": first.fix,
            "where": first.where,
            "candidates": list(first.candidates),
            "reason": self.reason,
            "blocked_by": self.blocked_by,
            "seconds": round(self.seconds, 3),
        }


def _not_a_number(measured: Measured) -> str:
    """Return where a NaN or an infinity is among observed and expected; empty if nowhere."""
    for name in ("observed", "expected"):
        values = [(name, getattr(measured, name))]
        for where, value in values:  # grows while it is read
            if isinstance(value, float) and not math.isfinite(value):
                return f"{where} = {value}"
            if isinstance(value, Mapping):
                values += [(f"{where}[{key!r}]", item) for key, item in value.items()]
            elif isinstance(value, list | tuple):
                values += [(f"{where}[{k}]", item) for k, item in enumerate(value)]
    return ""
