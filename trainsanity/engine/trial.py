"""What a repair's trial shows about a finding, in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.asked_again import BROKEN
from trainsanity.proofs import Proof, Proved, Repair
from trainsanity.types import Finding, Result, Severity, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report

GOOD = frozenset({Status.PASS, Status.WARNING})


@dataclass(frozen=True)
class Trial:
    """What came of one repair: results by check, or why there are none.

    ``begun`` is false where nothing was done to the pipeline.
    """

    repair: Repair
    results: Mapping[str, Result]
    why: str = ""
    changes_nothing: bool = False
    begun: bool = True


def failures_of(result: Result) -> list[Finding]:
    """Return the findings of a result that are no warnings."""
    return [finding for finding in result.findings if finding.severity is Severity.FAILURE]


def judged(finding: Finding, result: Result, report: Report, trial: Trial) -> Proof:
    """Return what a trial shows about one finding."""
    words = trial.repair.words
    if trial.changes_nothing:
        sentence = f"{words} changes nothing here: {trial.why}."
        return Proof(Proved.REFUTED, sentence, words, finding.observed, finding.observed)
    if trial.why or result.check.name not in trial.results:
        return Proof(Proved.UNTRIED, f"{words}: {trial.why or 'not judged with it'}", words)
    new = trial.results[result.check.name]
    instead = trial.results.get(trial.repair.then or "")
    if new.status is Status.SKIP and instead is not None and instead.status in GOOD:
        return _judged_by_another(finding, report, trial, instead)
    if new.status not in (*GOOD, Status.FAIL) and not new.findings:
        sentence = f"with {words} the check has no verdict: {new.reason}"
        return Proof(Proved.UNTRIED, sentence, words, finding.observed)
    green, red = _turned(report, trial)
    still = [shape(f.headline) for f in failures_of(new)]
    others = [shape(f.headline) for f in failures_of(result) if f is not finding]
    here = next((f for f in failures_of(new) if shape(f.headline) == shape(finding.headline)), None)
    after = new.observed if here is None else here.observed
    proof = Proof(Proved.REFUTED, "", words, finding.observed, after, green, red)
    became = _became(finding.observed, after)
    if here is not None or any(one not in others for one in still):
        other = "" if here is not None else f": {failures_of(new)[0].headline}"
        found = became or f"it still fails{other}"
        found += ", which still fails" if became else ""
        return replace(proof, sentence=f"with {words} {found}.")
    turned = f"{len(green)} {'check turns' if len(green) == 1 else 'checks turn'} green"
    gone = "it is gone" if not became or became.endswith(STAYS) else became
    told = f"with {words} {gone}; {turned}"
    if red:
        sentence = f"{told}, but {', '.join(red)} red, which did not fail."
        return replace(proof, status=Proved.UNPROVED, sentence=sentence)
    return replace(proof, status=Proved.PROVED, sentence=f"{told}, {_none_red(report, trial)}.")


def _judged_by_another(finding: Finding, report: Report, trial: Trial, instead: Result) -> Proof:
    """Return the proof where a check does not apply to what the repair puts in its place."""
    words, code = trial.repair.words, instead.check.code
    green, red = _turned(report, trial)
    told = f"with {words} the check does not apply, and {code} passes"
    proof = Proof(Proved.PROVED, "", words, finding.observed, None, green, red)
    if red:
        sentence = f"{told}, but {', '.join(red)} red, which did not fail."
        return replace(proof, status=Proved.UNPROVED, sentence=sentence)
    none_red = _none_red(report, trial).removeprefix("and ")
    return replace(proof, sentence=f"{told}; {none_red}.")


def _turned(report: Report, trial: Trial) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codes of the checks that turned green, and of those that turned red.

    One that did not apply and fails with the repair has turned red as well.
    """
    green, red = [], []
    for before in report.results:
        after = trial.results.get(before.check.name)
        if after is None:
            continue
        if before.status in BROKEN and after.status in GOOD:
            green.append(before.check.code)
        elif before.status in (*GOOD, Status.SKIP) and after.status in (Status.FAIL, Status.ERROR):
            red.append(before.check.code)
    return tuple(green), tuple(red)


def _none_red(report: Report, trial: Trial) -> str:
    """Return that no check turned red, of those that were judged again."""
    passed = [result.check.name for result in report.results if result.status in GOOD]
    again = sum(name in trial.results for name in passed)
    if again == len(passed):
        return "none red"
    if not again:
        return "and no other judged again"
    return f"and of {again} other{'s' if again > 1 else ''} judged again none red"


_NUMBER = re.compile(r"-?\d[\d,.]*(e[+-]?\d+)?|\bnan\b|\binf\b")


def shape(headline: str) -> str:
    """Return a finding's headline without its numbers, by which it is known again."""
    return _NUMBER.sub("#", headline)


STAYS = " stays"


def _became(before: Any, after: Any) -> str:
    """Return "68.148 becomes 5.679" where both are one number; empty otherwise."""
    numbers = [one for one in (before, after) if isinstance(one, float | int)]
    if len(numbers) < 2 or any(isinstance(one, bool) for one in numbers):
        return ""
    shown = [_short(one) for one in numbers]
    return f"{shown[0]}{STAYS}" if shown[0] == shown[1] else f"{shown[0]} becomes {shown[1]}"


def _short(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.5g}"
