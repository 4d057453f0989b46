"""The tests behind ``pytest --pyargs trainsanity.suite --trainsanity pkg.module:factory``.

Without the option, the pipelines of ``[tool.trainsanity]`` in pyproject.toml are judged.
"""

from __future__ import annotations

from trainsanity.pipeline import Pipeline
from trainsanity.pytest_plugin.bound import BoundCheck
from trainsanity.pytest_plugin.collection import parametrize_with_checks


@parametrize_with_checks()
def test_sanity(pipeline: Pipeline, check: BoundCheck) -> None:
    """The check holds for the pipeline."""
    check(pipeline)
