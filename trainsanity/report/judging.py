"""``trainsanity.judge``: a report for Python, in a notebook or a script."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, overload

from trainsanity.engine.progress import connected
from trainsanity.engine.registry import check as register
from trainsanity.engine.registry import registry, takes_no_step_twice
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.errors import UsageError
from trainsanity.isolation import time_limit as limits
from trainsanity.pipeline import Pipeline
from trainsanity.report import notebook, screen
from trainsanity.sources.building import from_trainer
from trainsanity.sources.config import cost_of, words_of
from trainsanity.types import CheckFunction, Cost


class ShownReport(Report):
    """A report that shows itself: its repr is the verdict, its str the report on one screen."""

    def __repr__(self) -> str:
        """Return the verdict, in one line, with what shows more."""
        return f"<{screen.line(self)}; print() shows the report>"

    def __str__(self) -> str:
        """Return the report on one screen."""
        return screen.render(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        return notebook.html_of(self)


@overload
def check(code: str, name: str, **how: Any) -> Callable[[CheckFunction], CheckFunction]: ...


@overload
def check(trainer: Any, /, **how: Any) -> ShownReport: ...


def check(*given: Any, **how: Any) -> Any:
    """Judge a Trainer, as :func:`judge` does: ``trainsanity.check(trainer)`` in a notebook.

    With a code it registers a check of your own, as
    ``@trainsanity.check("ACME001", "loss.label_smoothing", cost=...)``; see
    :func:`trainsanity.engine.registry.check`.
    """
    if given and not isinstance(given[0], str):
        return judge(*given, **how)
    return register(*given, **how)


def judge(
    trainer: Any,
    *,
    select: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    max_cost: Cost | str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    timeout: float | None = None,
    quick: bool = False,
    fail_fast: bool = False,
) -> ShownReport:
    """Judge a Trainer that is not training yet; afterwards it is what it was.

    Args:
        trainer: the ``transformers.Trainer`` that you would call ``train()`` on, or a
            :class:`Pipeline`.
        select: stages, names, codes or beginnings of codes, as a list or as one string with
            commas; all checks by default.
        ignore: the same, for checks to leave out.
        max_cost: only checks that cost this much or less, as ``"run"`` or :class:`Cost`; by default
            ``Cost.STEP``, and ``Cost.RUN`` for those that ``select`` names.
        expected_failures: check name to the reason why its failure is accepted.
        timeout: seconds that a check, and each measurement, may take; None for no limit.
        quick: take no training step twice, as ``trainsanity run --quick`` does.
        fail_fast: stop after the first failure.

    Returns:
        The report: ``print(report)`` shows it, ``report.good`` is its verdict,
        ``report.failures`` and ``report.warnings`` are what there is to do, ``report["TS502"]`` is
        one check's result, and ``report.results`` has every number.

    Raises:
        UsageError: this is no Trainer, there is no such cost, or the selection leaves no check to
            run.
    """
    limits.checked(timeout, "timeout")
    cost = cost_of(max_cost, "max_cost")
    checks = registry().select(words_of(select), words_of(ignore), cost)
    if quick:
        checks = [check for check in checks if takes_no_step_twice(check)]
    if not checks:
        raise UsageError("select, ignore and max_cost together leave no check to run")
    if isinstance(trainer, Pipeline):
        pipeline = trainer
    else:
        from transformers import Trainer

        if not isinstance(trainer, Trainer):
            called = inspect.isroutine(trainer)
            hint = f", as in judge({trainer.__name__}())" if called else ""
            raise UsageError(
                "what is judged is a transformers.Trainer, or a Pipeline, and not of type "
                f"{type(trainer).__name__}: give the Trainer that you would call train() on{hint}"
            )
        pipeline = from_trainer(trainer)
        # There is no target to name it by.
        pipeline.id = f"{type(trainer).__name__} of {type(pipeline.model).__name__}"
    pipeline.refuse_unusable_model()
    if pipeline.quick != quick:  # a recording without the laws is none with them
        pipeline.quick, pipeline.session = quick, None
    with notebook.progress() as show:
        on_check = connected(pipeline, show, checks)
        report = run(pipeline, checks, expected_failures, on_check, timeout, fail_fast=fail_fast)
    return ShownReport(**{field.name: getattr(report, field.name) for field in fields(report)})
