"""Keep each pipeline on one worker of pytest-xdist: built twice, it costs twice.

xdist's ``load``, its default with ``-n``, sends tests to whichever worker is free.  Where tests of
checks are among them, those of one pipeline are sent together, and all others as before, one by
one.  Another ``--dist`` is the user's choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest

from trainsanity.types import STAGES

_OURS = re.compile(rf"\[(?P<pipeline>.+)-[A-Z]+\d+-(?:{'|'.join(STAGES)})\.\w+\]$")
"""The end of a test's id: pipeline, code and name of the check."""


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler that keeps pipelines together, in place of ``load``."""
    if config.getvalue("dist") != "load" or _another(config):
        return None
    return _Scheduler(config, log)


def _another(config: pytest.Config) -> bool:
    """Return whether a plugin besides xdist and this one makes a scheduler of its own."""
    implementations = config.hook.pytest_xdist_make_scheduler.get_hookimpls()
    packages = {impl.function.__module__.partition(".")[0] for impl in implementations}
    return bool(packages - {"xdist", "trainsanity"})


def scope_of(nodeid: str) -> str:
    """Return what keeps a test together with others: its function and pipeline, or itself."""
    found = _OURS.search(nodeid)
    return nodeid if found is None else f"{nodeid[: found.start()]}[{found['pipeline']}]"


class _Scheduler:
    """Is xdist's ``load`` until the tests are known, and stays it if none judges a pipeline."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        self._config, self._log = config, log
        self._own = self._made("LoadScheduling")
        self._known = False

    def _made(self, name: str) -> Any:
        return getattr(import_module("xdist.scheduler"), name)(self._config, self._log)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Take a worker's tests; the first worker's decide how all are distributed."""
        if not self._known and any(map(_OURS.search, collection)):
            together = self._made("LoadScopeScheduling")
            together._split_scope = scope_of  # the method that it documents to be overridden
            for one in self._own.nodes:
                together.add_node(one)
            self._own = together
        self._known = True
        self._own.add_node_collection(node, collection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)
