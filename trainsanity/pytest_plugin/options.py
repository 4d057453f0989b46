"""The plugin's options, and the state of one run of pytest."""

from __future__ import annotations

import os

import pytest

from trainsanity.errors import UsageError
from trainsanity.pytest_plugin.bound import PluginState
from trainsanity.types import Cost

MARK = "trainsanity"

STATE = pytest.StashKey[PluginState]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; all begin with ``--trainsanity``."""
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
        help="the most that a check, and each measurement it needs, may take; one that takes "
        "longer is stopped and is an error",
    )
    group.addoption(
        "--trainsanity-warnings-as-errors",
        action="store_true",
        help="a check that warns fails its test; the default is warnings_as_errors of "
        "[tool.trainsanity], or a pytest warning",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the state of this run, and register the markers."""
    timeout = config.getoption("trainsanity_timeout")
    if timeout is not None:
        from trainsanity.isolation import time_limit as limits

        try:
            limits.checked(timeout, "--trainsanity-timeout")
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        # While tests run, pytest has a file of its own in the place of stderr.
        limits.stderr = os.dup(2)
    config.stash[STATE] = PluginState(
        timeout=timeout, warnings_as_errors=config.getoption("trainsanity_warnings_as_errors")
    )
    for line in (
        f"{MARK}(*pipelines, select, ignore, max_cost): set by trainsanity.parametrize_with_checks",
        "gpu: needs a CUDA device; skipped, with the reason, where torch finds none",
    ):
        config.addinivalue_line("markers", line)
