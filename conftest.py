"""Set up every test run of this repository, before torch is imported."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import hypothesis
import pytest

from tests.durations import order_longest_first
from trainsanity.pytest_plugin.running import skip_without_gpu

pytest_plugins = ["pytester", "tests.plugin_project"]

# The same examples everywhere, whatever the machine's speed and past: a failure can be repeated.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Give each xdist worker one GPU and its share of the cores, before torch is imported."""
    # Modules are handed out in the order below, not the one with the most tests first.
    config.option.loadscopereorder = False
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    if not worker:
        return
    # Workers that all use every core wait for each other: a step took 30 times as long.
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    if devices := _devices():
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[int(worker[1]) % len(devices)]


def _devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    found = [re.fullmatch(r"nvidia(\d+)", path.name) for path in Path("/dev").glob("nvidia*")]
    return sorted(match[1] for match in found if match)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Plain tests that need a GPU skip as the checks do, with the reason."""
    skip_without_gpu(item)


def pytest_collection_finish() -> None:
    """What imports and collection made stays: do not look through it for garbage, again and again.

    There are a million objects, and each judged pipeline makes the collector look several times.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, *gc.get_threshold()[1:])  # young objects, too, less often


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order what several workers share, and select what ``-k`` means."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order_longest_first(items)
    _checks_of_pipelines(config, items)


def _checks_of_pipelines(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With a stage, a check's name or its code alone, -k selects tests of pipelines only.

    That is what somebody types who debugs a pipeline.  Tests of the tool, a hundred of which have
    the word in their names and judge pipelines of their own, have more words, or a file to name.
    """
    keyword = config.option.keyword.strip()
    if not keyword:
        return
    from trainsanity.engine.registry import registry
    from trainsanity.errors import UsageError
    from trainsanity.pytest_plugin.bound import BoundCheck

    try:
        words = {word for check in registry().all() for word in check.keywords}
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    if keyword not in words:
        return
    parameters = {item: getattr(getattr(item, "callspec", None), "params", {}) for item in items}
    ours = [item for item in items if isinstance(parameters[item].get("check"), BoundCheck)]
    if ours:
        config.hook.pytest_deselected(items=[item for item in items if item not in set(ours)])
        items[:] = ours
