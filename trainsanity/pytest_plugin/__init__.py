"""The pytest face: one test per check and pipeline, failures that read like an answer.

Loaded in every pytest run of an environment that has trainsanity installed, so nothing here imports
torch, transformers or the checks before a test asks for them.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainsanity.errors import CheckFailure, UsageError
from trainsanity.pytest_plugin.bound import BoundCheck, CheckNotJudged, PluginState
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Check, Cost, Result, Status

if TYPE_CHECKING:
    from trainsanity.engine.report import Report
    from trainsanity.pipeline import Pipeline

MARK = "trainsanity"


def parametrize_with_checks(
    *pipelines: PipelineSpec | str,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    max_cost: Cost | None = None,
) -> pytest.MarkDecorator:
    """Make ``def test_sanity(pipeline, check): check(pipeline)`` one test per check and pipeline.

    Each pipeline is built once, when its first test runs, and taken down before the next is built.

    Args:
        pipelines: specs, or targets ``pkg.module:factory``.  With none, those of ``--trainsanity``
            or else of ``[tool.trainsanity]`` in the root directory's pyproject.toml.
        select: stages, names, globs, codes or beginnings of codes; all checks by default.
        ignore: the same, for checks to leave out.
        max_cost: only checks that cost this much or less; by default ``Cost.STEP``, and
            ``Cost.RUN`` for those that ``select`` or the options name.
    """
    return pytest.mark.trainsanity.with_args(
        *pipelines, select=tuple(select), ignore=tuple(ignore), max_cost=max_cost
    )


_SESSION = pytest.StashKey[PluginState]()


# Options and collection ------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the design's section "Faces"."""
    group = parser.getgroup("trainsanity", "sanity of fine-tuning pipelines")
    group.addoption(
        "--trainsanity",
        action="append",
        metavar="pkg.module:factory",
        help="judge this pipeline (repeatable), in `--pyargs trainsanity.suite` and wherever "
        "parametrize_with_checks names none; the default is [tool.trainsanity] of pyproject.toml",
    )
    words = "stages, names, codes or beginnings of codes, as in collator,TS5"
    group.addoption("--trainsanity-select", action="append", metavar="CHECKS", help=f"only {words}")
    group.addoption("--trainsanity-ignore", action="append", metavar="CHECKS", help=f"not {words}")
    group.addoption(
        "--trainsanity-max-cost",
        type=str.upper,
        choices=[cost.name for cost in Cost],
        help="only checks that cost this much or less; the default is STEP, and RUN for those that "
        "are selected by name",
    )
    group.addoption(
        "--trainsanity-timeout",
        type=float,
        metavar="SECONDS",
        help="the most that a check, and each measurement it asks for, may take; one that takes "
        "longer is stopped and is an error",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Start to remember, and name the markers."""
    timeout = config.getoption("trainsanity_timeout")
    if timeout is not None:
        from trainsanity.isolation import time_limit as limits

        try:
            limits.checked(timeout, "--trainsanity-timeout")
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        # While tests run, pytest has a file of its own in the place of stderr.
        limits.stderr = os.dup(2)
    config.stash[_SESSION] = PluginState(timeout=timeout)
    for line in (
        f"{MARK}(*pipelines, select, ignore, max_cost): set by trainsanity.parametrize_with_checks",
        "gpu: needs a CUDA device; skipped, with the reason, where torch finds none",
    ):
        config.addinivalue_line("markers", line)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Two calls of parametrize: with the product in one, pytest rebuilds a pipeline per check."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None:
        return
    session = metafunc.config.stash[_SESSION]
    try:
        specs, checks = _chosen(metafunc.config, session, mark)
        if missing := {"pipeline", "check"} - set(metafunc.fixturenames):
            raise UsageError(
                f"{metafunc.definition.nodeid} takes no {' and no '.join(sorted(missing))}: "
                "write def test_sanity(pipeline, check): check(pipeline)"
            )
    except UsageError as error:
        # Raised here it would be one broken module among others; see pytest_collection_modifyitems.
        session.usage_errors.append(str(error))
        return
    metafunc.parametrize(
        "pipeline",
        [pytest.param(spec, id=spec.id, marks=spec.marks) for spec in specs],
        indirect=True,
        scope="session",
    )
    metafunc.parametrize(
        "check",
        [pytest.param(BoundCheck(c, session), id=f"{c.code}-{c.name}") for c in checks],
    )


def _chosen(
    config: pytest.Config, session: PluginState, mark: pytest.Mark
) -> tuple[list[PipelineSpec], list[Check]]:
    from trainsanity.engine.registry import registry
    from trainsanity.sources.config import configuration
    from trainsanity.sources.factory import spec_of

    table = configuration(config.rootpath)
    accepted = table.get("expected_failures", {})
    given: Sequence[PipelineSpec | str] = mark.args
    if not given:
        session.targets_used = True
        given = config.getoption("trainsanity") or table.get("pipelines", [])
    if not given:
        raise UsageError(
            "no pipeline to judge: give --trainsanity pkg.module:factory, or name some under "
            "pipelines in [tool.trainsanity] of pyproject.toml"
        )
    specs = [spec_of(spec, accepted) if isinstance(spec, str) else spec for spec in given]
    for spec in specs:
        for name in spec.expected_failures:
            if registry().get(name).name != name:
                raise UsageError(f"expected_failures: name the check in full, not by {name!r}")
    checks = registry().select(**mark.kwargs)
    if mark.kwargs["max_cost"] is None:
        checks = _with_asked(config, checks, mark)
    if not checks:
        raise UsageError("select, ignore and max_cost together leave no check to run")
    return specs, checks


def _with_asked(config: pytest.Config, checks: list[Check], mark: pytest.Mark) -> list[Check]:
    """With the runs, which only the options ask for."""
    from trainsanity.engine.registry import registry

    select, ignore, max_cost = _options(config)
    if not select and max_cost is None:
        return checks
    asked = registry().select(select, ignore, max_cost)
    every = registry().select(**{**mark.kwargs, "max_cost": Cost.RUN})
    return [check for check in every if check in checks or check in asked]


def _options(config: pytest.Config) -> tuple[list[str], list[str], Cost | None]:
    """What --trainsanity-select, -ignore and -max-cost say."""
    select, ignore = (_words(config.getoption(f"trainsanity_{o}")) for o in ("select", "ignore"))
    max_cost = config.getoption("trainsanity_max_cost")
    return select, ignore, Cost[max_cost] if max_cost else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Narrow by the options, mark expected failures, and stop where nothing would be judged."""
    own = config.stash[_SESSION]
    ours = {item: pair for item in items if (pair := _parameters(item))}
    try:
        _narrow(session, items, ours)
    except UsageError as error:
        own.usage_errors.append(str(error))
    for item, (spec, bound) in ours.items():
        if reason := spec.expected_failures.get(bound.check.name):
            item.add_marker(pytest.mark.xfail(raises=CheckFailure, strict=True, reason=reason))
    # After an error in collection, what is missing is missing for a reason that is told.
    if config.getoption("trainsanity") and not own.targets_used and not session.testsfailed:
        own.usage_errors.append(
            "--trainsanity names a pipeline, but no test here would judge it: "
            "add --pyargs trainsanity.suite"
        )
    if not own.usage_errors:
        return
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(*dict.fromkeys(own.usage_errors))
    # An xdist worker that raised would take the sentence with it; one test is left to tell it.
    del items[1:]


def _narrow(
    session: pytest.Session,
    items: list[pytest.Item],
    ours: dict[pytest.Item, tuple[PipelineSpec, BoundCheck]],
) -> None:
    select, ignore, max_cost = _options(session.config)
    if not select and not ignore and max_cost is None:
        return
    from trainsanity.engine.registry import registry

    # What an ignored word leaves is what the decorator chose, runs among it.
    chosen = registry().select(select, ignore, Cost.RUN if max_cost is None else max_cost)
    names = {check.name for check in chosen}
    dropped = [item for item, (_, bound) in ours.items() if bound.check.name not in names]
    if len(dropped) == len(ours) and not session.testsfailed:
        raise UsageError(
            "the --trainsanity-select, -ignore and -max-cost options leave no check to run"
        )
    for item in dropped:
        del ours[item]
    session.config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in set(dropped)]


def _words(values: list[str] | None) -> list[str]:
    words = [word.strip() for value in values or () for word in value.split(",") if word.strip()]
    # An empty variable in a script must not turn "only these" into "all".
    if values and not words:
        raise UsageError("an option names no check; 'trainsanity list' shows them all")
    return words


def pytest_collection_finish(session: pytest.Session) -> None:
    """After ``-k``, ``-m``, ``--lf`` and the rest: what is really going to be judged."""
    own = session.config.stash[_SESSION]
    for item in session.items:
        if pair := _parameters(item):
            spec, bound = pair
            own.selected.setdefault(id(spec), set()).add(bound.check.name)


def _parameters(item: pytest.Item) -> tuple[PipelineSpec, BoundCheck] | None:
    params = getattr(getattr(item, "callspec", None), "params", {})
    spec, bound = params.get("pipeline"), params.get("check")
    if isinstance(spec, PipelineSpec) and isinstance(bound, BoundCheck):
        return spec, bound
    return None


# Running ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pipeline(request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """The pipeline of the spec that the test is parametrized with, built once.

    After its last test it is emptied: two fine-tuning runs seldom fit into one accelerator.
    """
    spec = getattr(request, "param", None)
    if not isinstance(spec, PipelineSpec):
        raise UsageError(
            "the fixture 'pipeline' gets its PipelineSpec from trainsanity.parametrize_with_checks "
            "or from pytest.mark.parametrize('pipeline', [SPEC], indirect=True)"
        )
    from trainsanity.engine.runner import Runner

    session = request.config.stash[_SESSION]
    _release()
    with spec.built() as made:
        # A copy, because build may return a pipeline that somebody else goes on using.
        built = dataclasses.replace(made)
        del made
        session.spec, session.runner = (
            spec,
            Runner(built, spec.expected_failures, timeout=session.timeout),
        )
        yield built
    session.spec = session.runner = session.result = None
    # pytest, and the frames of failed tests, keep the object itself.
    vars(built).clear()
    _release()


def _release() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a GPU's checks where there is none, before the pipeline is built."""
    session = item.config.stash[_SESSION]
    session.result = None
    if session.usage_errors:
        raise UsageError("\n".join(dict.fromkeys(session.usage_errors)))
    if "pipeline" in getattr(getattr(item, "callspec", None), "params", {}):
        skip_without_gpu(item)


def skip_without_gpu(item: pytest.Item) -> None:
    """Skip a test that is marked ``gpu`` if torch finds no CUDA device."""
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        pytest.skip(f"needs a GPU, and torch {torch.__version__} finds no CUDA device")


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
    if isinstance(error, CheckFailure | CheckNotJudged | UsageError):
        from trainsanity.pytest_plugin.results import told

        debug = item.config.get_verbosity() > 0
        report.longrepr = told(item, error, result, rerun=_rerun(item), debug=debug)
    return report


def _result_of(item: pytest.Item, when: str, error: BaseException | None) -> Result | None:
    if when == "call":
        return item.config.stash[_SESSION].result
    pair = _parameters(item)
    if when == "setup" and pair and error is not None:
        spec, bound = pair
        status = Status.SKIP if isinstance(error, pytest.skip.Exception) else Status.ERROR
        return Result(bound.check, spec.id, status, reason=str(error))
    return None


def _rerun(item: pytest.Item) -> str | None:
    pair = _parameters(item)
    if pair is None:
        return None
    spec, bound = pair
    # A run is judged only where something names it.
    asked = f" --trainsanity-select {bound.check.code}" if bound.check.cost is Cost.RUN else ""
    if item.path == Path(__file__).with_name("suite.py"):
        # From the root directory the suite's path may lead out of the project.
        target = f" --trainsanity {spec.id}" if item.config.getoption("trainsanity") else ""
        return f"pytest --pyargs trainsanity.suite{target}{asked} -k {bound.check.code}"
    path, colons, test = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / path, item.config.invocation_params.dir)
    return f'pytest "{path}{colons}{test}"{asked}'


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Be red where checks were called and none of a pipeline's came to a verdict.

    Tests that a mark skips, as ``gpu`` does, are not called: that is the user's own word.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or reporter is None:
        return
    if any(report.ran == 0 for report in _reports(reporter, "call")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the results of each pipeline mean together."""
    called = {report.pipeline_id for report in _reports(terminalreporter, "call")}
    for number, report in enumerate(_reports(terminalreporter)):
        if number == 0:
            terminalreporter.section("trainsanity")
        from trainsanity.pytest_plugin.results import summary

        for line in summary(report):
            terminalreporter.line(line)
        if report.ran == 0 and report.pipeline_id in called:
            terminalreporter.line("  Nothing was judged, and that is no success: exit code 1.")


def _reports(reporter: pytest.TerminalReporter, when: str | None = None) -> list[Report]:
    """One for each pipeline that tests told of; of tests in one phase if ``when`` names it."""
    told = {
        report.nodeid: report.user_properties
        for some in reporter.stats.values()
        for report in some
        if getattr(report, "user_properties", None) and when in (None, report.when)
    }
    if not told:
        return []
    from trainsanity.pytest_plugin.results import reports_of

    return list(reports_of(told.values()))
