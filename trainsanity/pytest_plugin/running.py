"""Build each pipeline once, and report what its checks found."""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainsanity.errors import CheckFailure, CheckWarning, UsageError
from trainsanity.pytest_plugin.bound import CheckNotJudged
from trainsanity.pytest_plugin.collection import parameters_of
from trainsanity.pytest_plugin.options import STATE
from trainsanity.sources.building import BUILDING, PipelineSpec
from trainsanity.types import Cost, Result, Status

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SUITE = Path(__file__).parents[1] / "suite.py"


@pytest.fixture(scope="session")
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """Build the pipeline of the spec that the test is parametrized with, once.

    After its last test it is emptied: two fine-tuning runs seldom fit into one accelerator.
    """
    spec = getattr(request, "param", None)
    if not isinstance(spec, PipelineSpec):
        raise UsageError(
            "the fixture 'pipeline' gets its PipelineSpec from trainsanity.parametrize_with_checks "
            "or from pytest.mark.parametrize('pipeline', [SPEC], indirect=True)"
        )
    from trainsanity.engine.runner import Runner

    state = request.config.stash[STATE]
    _free_memory()
    building = None if state.timeout is None else state.timeout + BUILDING
    with dataclasses.replace(spec, timeout=spec.timeout or building).built() as made:
        # A copy, because the factory may return a pipeline that is used elsewhere.
        built = dataclasses.replace(made)
        del made
        state.spec = spec
        state.runner = Runner(built, spec.expected_failures, timeout=state.timeout)
        yield built
    state.spec = state.runner = state.result = None
    # pytest, and the frames of failed tests, keep the object itself.
    vars(built).clear()
    _free_memory()


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a GPU's checks where there is none, before the pipeline is built."""
    state = item.config.stash[STATE]
    state.result = None
    if state.usage_errors:
        raise UsageError("\n".join(dict.fromkeys(state.usage_errors)))
    if "pipeline" in getattr(getattr(item, "callspec", None), "params", {}):
        skip_without_gpu(item)


def skip_without_gpu(item: pytest.Item) -> None:
    """Skip a test that is marked ``gpu`` if torch finds no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"needs a GPU, and torch {torch.__version__} finds no CUDA device")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that passes whatever the pipeline is: it never calls its check, or catches all.

    Raises:
        CheckNotJudged: it did not call it, or caught that it ended in an error.
        CheckFailure: it caught the failure.
    """
    yield
    pair = parameters_of(item)
    if pair is None:
        return
    spec, bound = pair
    result = item.config.stash[STATE].result
    if result is None:
        raise CheckNotJudged(
            f"{bound} was not judged on {spec.id}: the test takes check and never calls it; write "
            "check(pipeline)"
        )
    if result.status in (Status.FAIL, Status.ERROR):
        from trainsanity.pytest_plugin.results import failure_text

        kind = CheckFailure if result.status is Status.FAIL else CheckNotJudged
        raise kind(
            f"{failure_text(result)}\n\nThe test catches what check(pipeline) raises; a failure "
            "that is known belongs into expected_failures"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the result into ``user_properties`` and the finding in the traceback's place."""
    error = call.excinfo.value if call.excinfo else None
    result = _result_of(item, call.when, error)
    if result is not None:
        from trainsanity.pytest_plugin.results import properties

        item.user_properties.extend(properties(result))
    report = yield
    if not report.failed:
        return report
    if error is None and result is not None and result.status is Status.XPASS:
        from trainsanity.pytest_plugin.results import title

        error = CheckNotJudged(
            f"{title(result)} passed, but is expected to fail ({result.reason}): "
            "delete its entry in expected_failures"
        )
    if isinstance(error, CheckFailure | CheckWarning | CheckNotJudged | UsageError):
        from trainsanity.pytest_plugin.results import as_traceback

        debug = item.config.get_verbosity() > 0
        report.longrepr = as_traceback(item, error, result, rerun=_rerun(item), debug=debug)
    return report


def _result_of(item: pytest.Item, when: str, error: BaseException | None) -> Result | None:
    if when == "call":
        return item.config.stash[STATE].result
    pair = parameters_of(item)
    if when == "setup" and pair and error is not None:
        spec, bound = pair
        status = Status.SKIP if isinstance(error, pytest.skip.Exception) else Status.ERROR
        return Result(bound.check, spec.id, status, reason=str(error))
    return None


def _rerun(item: pytest.Item) -> str | None:
    pair = parameters_of(item)
    if pair is None:
        return None
    spec, bound = pair
    # A check of cost RUN is judged only where something names it.
    named = f" --trainsanity-select {bound.check.code}" if bound.check.cost is Cost.RUN else ""
    if item.path == SUITE:
        # From the root directory the suite's path may lead out of the project.
        target = f" --trainsanity {spec.id}" if item.config.getoption("trainsanity") else ""
        return f"pytest --pyargs trainsanity.suite{target}{named} -k {bound.check.code}"
    path, colons, test = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    return f'pytest "{path}{colons}{test}"{named}'
