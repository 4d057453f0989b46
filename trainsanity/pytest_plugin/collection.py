"""Which checks become tests, of which pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from trainsanity.errors import CheckFailure, UsageError
from trainsanity.pytest_plugin.bound import BoundCheck, PluginState
from trainsanity.pytest_plugin.options import MARK, STATE
from trainsanity.sources.building import PipelineSpec
from trainsanity.types import Check, Cost


def parametrize_with_checks(
    *pipelines: PipelineSpec | str | Iterable[PipelineSpec | str],
    select: str | Iterable[str] = (),
    ignore: str | Iterable[str] = (),
    max_cost: Cost | str | None = None,
) -> pytest.MarkDecorator:
    """Make ``def test_sanity(pipeline, check): check(pipeline)`` one test per check and pipeline.

    Each pipeline is built once, when its first test runs, and taken down before the next is built.

    Args:
        pipelines: specs, or targets ``pkg.module:factory``, one or several, or lists of them.  With
            none, those of ``--trainsanity`` or else of ``[tool.trainsanity]`` in the root
            directory's pyproject.toml.
        select: stages, names, globs, codes or beginnings of codes, as a list or as one string with
            commas; by default those of ``[tool.trainsanity]``, or all checks.
        ignore: the same, for checks to leave out.
        max_cost: only checks that cost this much or less, as ``"run"`` or :class:`Cost`; by default
            ``Cost.STEP``, and ``Cost.RUN`` for those that ``select`` or the options name.
    """
    flat: list[PipelineSpec | str] = []
    for given in pipelines:
        flat += [given] if isinstance(given, PipelineSpec | str) else given
    if pipelines and not flat:
        # An empty list must not turn "these" into "all that pyproject.toml names".
        raise UsageError("parametrize_with_checks: the list of pipelines is empty")
    from trainsanity.sources.config import cost_of

    return pytest.mark.trainsanity.with_args(
        *flat,
        select=_listed(select),
        ignore=_listed(ignore),
        max_cost=cost_of(max_cost, "parametrize_with_checks: max_cost"),
    )


def _listed(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return words that are given as a list, or as one string with commas between them."""
    words = given.split(",") if isinstance(given, str) else given
    found = tuple(word.strip() for word in words if word.strip())
    if isinstance(given, str) and given and not found:
        raise UsageError(f"parametrize_with_checks: {given!r} names no check")
    return found


def parameters_of(item: pytest.Item) -> tuple[PipelineSpec, BoundCheck] | None:
    """Return the pipeline and the check of a test; None for a test that is not ours."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    spec, bound = params.get("pipeline"), params.get("check")
    if isinstance(spec, PipelineSpec) and isinstance(bound, BoundCheck):
        return spec, bound
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize twice: with the product in one call, pytest rebuilds a pipeline per check."""
    mark = metafunc.definition.get_closest_marker(MARK)
    if mark is None:
        return
    state = metafunc.config.stash[STATE]
    try:
        specs, checks = _chosen(metafunc.config, state, mark)
        if missing := {"pipeline", "check"} - set(metafunc.fixturenames):
            raise UsageError(
                f"{metafunc.definition.nodeid} takes no {' and no '.join(sorted(missing))}: "
                "write def test_sanity(pipeline, check): check(pipeline)"
            )
    except UsageError as error:
        # Raised here it would be one broken module among others; see pytest_collection_modifyitems.
        state.usage_errors.append(str(error))
        return
    metafunc.parametrize(
        "pipeline",
        [pytest.param(spec, id=spec.id, marks=spec.marks) for spec in specs],
        indirect=True,
        scope="session",
    )
    metafunc.parametrize(
        "check",
        [pytest.param(BoundCheck(c, state), id=f"{c.code}-{c.name}") for c in checks],
    )


def _chosen(
    config: pytest.Config, state: PluginState, mark: pytest.Mark
) -> tuple[list[PipelineSpec], list[Check]]:
    from trainsanity.engine.registry import registry
    from trainsanity.sources.config import configuration, declared_in
    from trainsanity.sources.factory import spec_of

    table = configuration(config.rootpath)
    state.warnings_as_errors |= table.get("warnings_as_errors", False)
    accepted = table.get("expected_failures", {})
    given: Sequence[PipelineSpec | str] = mark.args
    if not given:
        state.targets_used = True
        given = config.getoption("trainsanity") or table.get("pipelines", [])
    if not given:
        raise UsageError(
            "no pipeline to judge: give --trainsanity pkg.module:factory, or name some under "
            "pipelines in [tool.trainsanity] of pyproject.toml"
        )
    declared = declared_in(table)
    specs = [spec_of(one, accepted, declared) if isinstance(one, str) else one for one in given]
    for spec in specs:
        for name in spec.expected_failures:
            if registry().get(name).name != name:
                raise UsageError(f"expected_failures: name the check in full, not by {name!r}")
    if state.timeout is None:
        state.timeout = table.get("timeout")
    wanted = dict(mark.kwargs)
    # What the decorator names counts for itself: the file's choice is not mixed into it.
    if not wanted["select"]:
        wanted["select"] = table.get("select", ())
        if wanted["max_cost"] is None:
            wanted["max_cost"] = table.get("max_cost")
    checks = registry().select(**wanted)
    if mark.kwargs["max_cost"] is None:
        checks = _with_runs(config, checks, wanted)
    if not checks:
        raise UsageError("select, ignore and max_cost together leave no check to run")
    return specs, checks


def _with_runs(config: pytest.Config, checks: list[Check], wanted: dict[str, Any]) -> list[Check]:
    """Add the checks of cost RUN that the options name."""
    from trainsanity.engine.registry import registry

    select, ignore, max_cost = _options(config)
    if not select and max_cost is None:
        return checks
    named = registry().select(select, ignore, max_cost)
    every = registry().select(**{**wanted, "max_cost": Cost.RUN})
    return [check for check in every if check in checks or check in named]


def _options(config: pytest.Config) -> tuple[list[str], list[str], Cost | None]:
    """Return the values of --trainsanity-select, -ignore and -max-cost."""
    select, ignore = (_words(config.getoption(f"trainsanity_{o}")) for o in ("select", "ignore"))
    max_cost = config.getoption("trainsanity_max_cost")
    return select, ignore, Cost[max_cost] if max_cost else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Narrow by the options, mark expected failures, and stop where nothing would be judged."""
    state = config.stash[STATE]
    ours = {item: pair for item in items if (pair := parameters_of(item))}
    try:
        _narrow(session, items, ours)
    except UsageError as error:
        state.usage_errors.append(str(error))
    for item, (spec, bound) in ours.items():
        if reason := spec.expected_failures.get(bound.check.name):
            item.add_marker(pytest.mark.xfail(raises=CheckFailure, strict=True, reason=reason))
    # After an error in collection, which pytest reports, tests may be missing because of it.
    if config.getoption("trainsanity") and not state.targets_used and not session.testsfailed:
        state.usage_errors.append(
            "--trainsanity names a pipeline, but no test here would judge it: "
            "add --pyargs trainsanity.suite"
        )
    if not state.usage_errors:
        return
    if not hasattr(config, "workerinput"):
        raise pytest.UsageError(*dict.fromkeys(state.usage_errors))
    # The controller does not print what an xdist worker raises; one test is left to report it.
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

    # --trainsanity-ignore alone keeps all else that the decorator chose, checks of cost RUN, too.
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


def _words(values: Any) -> list[str]:
    words = [word.strip() for value in values or () for word in value.split(",") if word.strip()]
    # An empty variable in a script must not turn "only these" into "all".
    if values and not words:
        raise UsageError("an option names no check; 'trainsanity list' shows them all")
    return words


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note which checks will be judged, after ``-k``, ``-m``, ``--lf`` and the rest."""
    state = session.config.stash[STATE]
    for item in session.items:
        if pair := parameters_of(item):
            spec, bound = pair
            state.selected.setdefault(id(spec), set()).add(bound.check.name)
