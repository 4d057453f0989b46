"""Judge a log by the questions of checks, and report the answers.

Each question has the code of the check that computes what a log can only suggest.  Like a check it
yields exactly one ``Measured``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from trainsanity.diagnose import loss_questions, move_questions, step_questions
from trainsanity.diagnose.case import Case
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.types import Finding, Measured, Result, Skip, Status

Question = Callable[[Case], Iterator[Measured | Finding]]

QUESTIONS: dict[str, Question] = {
    "loss.initial_is_uninformed": loss_questions.initial,
    "loss.matches_reference": loss_questions.train_and_eval,
    "loss.finite": loss_questions.finite,
    "gradient.clipping": step_questions.clipping,
    "gradient.finite": step_questions.finite,
    "gradient.reaches_every_parameter": step_questions.reaches,
    "update.moves_the_right_ones": move_questions.moves,
    "schedule.peak_is_reached": step_questions.peak,
    "schedule.learning_rate_follows": step_questions.follows,
}


def ask(case: Case) -> Report:
    """Answer all questions; return the report, in stage order."""
    start = time.perf_counter()
    results = [answer(name, question, case) for name, question in QUESTIONS.items()]
    return Report(
        case.log.name,
        tuple(sorted(results, key=lambda result: result.check.order)),
        len(QUESTIONS),
        {"notes": list(case.log.notes)},
        {"entries": case.log.count, **case.facts},
        time.perf_counter() - start,
        of_a_log=True,
    )


def answer(name: str, question: Question, case: Case) -> Result:
    """Answer a question; return the result under the name of its check."""
    # A log can suggest a cause, never exclude one.
    check = replace(registry().get(name), rules_out=None)
    try:
        return Result.of(check, case.log.name, question(case))
    except Skip as skip:
        return Result(check, case.log.name, Status.SKIP, reason=str(skip))
