"""A check as the parameter of a test, and the state of one run of pytest."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from trainsanity.errors import CheckFailure, CheckWarning
from trainsanity.types import Check, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.runner import Runner
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.building import PipelineSpec


class CheckNotJudged(Exception):
    """A check reached no verdict, and no other test of this session fails because of that.

    It is no :class:`CheckFailure`, so that an expected failure does not hide it.
    """


@dataclass
class PluginState:
    """The state of the plugin during one run of pytest."""

    timeout: float | None = None
    """Seconds that a check, and each measurement, may take."""
    warnings_as_errors: bool = False
    """A check that warns fails its test."""
    targets_used: bool = False
    """True if a test judges the pipelines of the option or of pyproject.toml."""
    usage_errors: list[str] = field(default_factory=list)
    selected: dict[int, set[str]] = field(default_factory=dict)
    """Names of the checks that this run will judge, by the id of the spec."""
    spec: PipelineSpec | None = None
    runner: Runner | None = None
    result: Result | None = None
    """The last result in the test that runs now."""

    def judge(self, pipeline: Pipeline, check: Check) -> Result:
        """Return the result for this pipeline, kept as long as the pipeline is the same."""
        from trainsanity.engine.runner import Runner

        if self.runner is None or self.runner.pipeline is not pipeline:
            self.spec, self.runner = None, Runner(pipeline, timeout=self.timeout)
        self.result = self.runner.result(check)
        return self.result

    def blockers(self, result: Result) -> Iterator[Result]:
        """Yield what blocks a check, nearest first; the last one is not blocked itself."""
        while result.blocked_by is not None and self.runner is not None:
            result = self.runner.results[result.blocked_by]
            yield result

    def judged_here(self, result: Result) -> bool:
        """Return whether this run has a test of its own for that check."""
        return result.check.name in self.selected.get(id(self.spec), ())


class BoundCheck:
    """The parameter ``check``: called with a pipeline, it judges it."""

    def __init__(self, check: Check, state: PluginState) -> None:
        self.check = check
        self._state = state

    def __str__(self) -> str:
        return f"{self.check.code} {self.check.name}"

    def __call__(self, pipeline: Pipeline) -> Result:
        """Judge the pipeline; return if the check passes, or warns and warnings are no errors.

        Raises:
            CheckFailure: the check failed; the text is the finding.
            CheckNotJudged: it ended in an error, or is blocked by a check that this run leaves out.
        """
        from trainsanity.pytest_plugin.results import failure_text

        result = self._state.judge(pipeline, self.check)
        match result.status:
            case Status.WARNING if self._state.warnings_as_errors:
                raise CheckFailure(failure_text(result))
            case Status.WARNING:
                warnings.warn(CheckWarning(failure_text(result)), stacklevel=2)
            case Status.FAIL | Status.XFAIL:
                raise CheckFailure(failure_text(result))
            case Status.SKIP:
                pytest.skip(result.reason)
            case Status.ABSTAIN:
                pytest.skip(f"abstained: {result.reason}")
            case Status.ERROR:
                raise CheckNotJudged(failure_text(result))
            case Status.BLOCKED:
                self._blocked(result)
        return result

    def _blocked(self, result: Result) -> None:
        earlier = list(self._state.blockers(result))
        if any(map(self._state.judged_here, earlier)):
            pytest.skip(f"blocked: {result.reason}")
        text = f"{self} is blocked on {result.pipeline_id}: {result.reason}"
        if earlier:
            # The cause is left out of this run, which would otherwise end green.
            from trainsanity.pytest_plugin.results import failure_text

            text += f"\n\nNot in this run, but first to mend:\n{failure_text(earlier[-1])}"
        raise CheckNotJudged(text)
