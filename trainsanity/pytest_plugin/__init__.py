"""The pytest plugin: one test per check and pipeline, failures that read like an answer.

Loaded in every pytest run of an environment that has trainsanity installed, so nothing here imports
torch, transformers or the checks before a test needs them.  The hooks are in modules of their own;
pytest finds them by their names here.
"""

from __future__ import annotations

from trainsanity.pytest_plugin.collection import (
    parametrize_with_checks,
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_generate_tests,
)
from trainsanity.pytest_plugin.distribution import pytest_xdist_make_scheduler
from trainsanity.pytest_plugin.options import pytest_addoption, pytest_configure
from trainsanity.pytest_plugin.running import (
    pipeline,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    skip_without_gpu,
)
from trainsanity.pytest_plugin.summary import pytest_sessionfinish, pytest_terminal_summary

__all__ = [
    "parametrize_with_checks",
    "pipeline",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_xdist_make_scheduler",
    "skip_without_gpu",
]
