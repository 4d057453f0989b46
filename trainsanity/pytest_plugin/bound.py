"""A check as the parameter of a test, and what one run of pytest knows about the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from trainsanity.errors import CheckFailure
from trainsanity.types import Check, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.runner import Runner
    from trainsanity.pipeline import Pipeline
    from trainsanity.sources.building import PipelineSpec


class CheckNotJudged(Exception):
    """A check came to no verdict and nothing in this session is red or accepted in its stead.

    It is no :class:`CheckFailure`, so that an expected failure does not swallow it.
    """


@dataclass
class PluginState:
    """What the plugin remembers during one run of pytest."""

    timeout: float | None = None
    """Seconds that a check, and each measurement, may take."""
    usage_errors: list[str] = field(default_factory=list)
    targets_used: bool = False
    selected: dict[int, set[str]] = field(default_factory=dict)
    """Names of the checks that this run will judge, by the id of the spec."""
    spec: PipelineSpec | None = None
    runner: Runner | None = None
    result: Result | None = None
    """The last one in the test that runs now."""

    def judge(self, pipeline: Pipeline, check: Check) -> Result:
        """The result for this pipeline, kept as long as the pipeline is the same."""
        from trainsanity.engine.runner import Runner

        if self.runner is None or self.runner.pipeline is not pipeline:
            self.spec, self.runner = None, Runner(pipeline, timeout=self.timeout)
        self.result = self.runner.result(check)
        return self.result

    def blockers(self, result: Result) -> Iterator[Result]:
        """What stands before a blocked check, nearest first; the last one is not blocked."""
        while result.blocked_by is not None and self.runner is not None:
            result = self.runner.results[result.blocked_by]
            yield result

    def judged_here(self, result: Result) -> bool:
        """Whether this run has a test of its own for that check."""
        return result.check.name in self.selected.get(id(self.spec), ())


class BoundCheck:
    """The parameter ``check``: called with a pipeline, it judges it."""

    def __init__(self, check: Check, session: PluginState) -> None:
        self.check = check
        self._session = session

    def __str__(self) -> str:
        return f"{self.check.code} {self.check.name}"

    def __call__(self, pipeline: Pipeline) -> Result:
        """Judge the pipeline; returns if the check passes.

        Raises:
            CheckFailure: the check failed; the text is the finding.
            CheckNotJudged: it ended in an error, or waits for a check that this run leaves out.
        """
        from trainsanity.pytest_plugin.results import failure_text

        result = self._session.judge(pipeline, self.check)
        match result.status:
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
        earlier = list(self._session.blockers(result))
        if any(map(self._session.judged_here, earlier)):
            pytest.skip(f"blocked: {result.reason}")
        text = f"{self} is blocked on {result.pipeline_id}: {result.reason}"
        if earlier:
            # Left out of this run, the cause would be told nowhere and the run end green.
            from trainsanity.pytest_plugin.results import failure_text

            text += f"\n\nNot in this run, but first to mend:\n{failure_text(earlier[-1])}"
        raise CheckNotJudged(text)
