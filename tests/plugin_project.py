"""A small project for tests of the plugin: real torch models, checks as a user would write them.

The root conftest.py loads it, so torch is not imported here.  Test modules that use it import
torch: each run of pytest in a test would import it again otherwise, and forget it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent / "examples"

CONFTEST = (EXAMPLES / "acme_checks.py").read_text()
PIPELINES = (EXAMPLES / "acme_pipelines.py").read_text()

SANITY = """
import pytest
import trainsanity
from trainsanity import PipelineSpec
from pipelines import *

@trainsanity.parametrize_with_checks({arguments})
def test_sanity(pipeline, check):
    check(pipeline)
"""


def built(pytester):
    """The weights of the pipelines that were built, in any process."""
    return (pytester.path / "built.txt").read_text().split()


@pytest.fixture
def project(pytester, monkeypatch):
    """A project with three checks of its own, which are all that there are."""
    from trainsanity.engine import registry as registry_module

    registry_module.registry()  # The built-in checks go where they belong, not into the new one.
    monkeypatch.setattr(registry_module, "_registry", registry_module.Registry())
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.syspath_prepend(pytester.path)
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(pipelines=PIPELINES)

    def make(arguments: str, more: str = "") -> pytest.Pytester:
        pytester.makepyfile(test_it=SANITY.format(arguments=arguments) + more)
        return pytester

    return make
