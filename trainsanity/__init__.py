"""Is this fine-tuning run sane?  Answered before the first GPU hour.

``import trainsanity`` loads no torch; the public names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "Abstain": "types",
    "Check": "types",
    "CheckFailure": "errors",
    "CheckWarning": "errors",
    "Cost": "types",
    "Finding": "types",
    "Pipeline": "pipeline",
    "PipelineSpec": "sources.building",
    "Result": "types",
    "Severity": "types",
    "SanityCallback": "live.callback",
    "Measured": "types",
    "Skip": "types",
    "Status": "types",
    "UsageError": "errors",
    "check": "report.judging",
    "judge": "report.judging",
    "parametrize_with_checks": "pytest_plugin",
}

__all__ = [
    "Abstain",
    "Check",
    "CheckFailure",
    "CheckWarning",
    "Cost",
    "Finding",
    "Measured",
    "Pipeline",
    "PipelineSpec",
    "Result",
    "SanityCallback",
    "Severity",
    "Skip",
    "Status",
    "UsageError",
    "check",
    "judge",
    "parametrize_with_checks",
]

if TYPE_CHECKING:
    from .errors import CheckFailure, CheckWarning, UsageError
    from .live.callback import SanityCallback
    from .pipeline import Pipeline
    from .pytest_plugin import parametrize_with_checks
    from .report.judging import check, judge
    from .sources.building import PipelineSpec
    from .types import Abstain, Check, Cost, Finding, Measured, Result, Severity, Skip, Status


_RENAMED = {"Seen": "Measured"}
"""Public names of before, which go on working with a DeprecationWarning."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        import warnings

        new = _RENAMED[name]
        warnings.warn(
            f"trainsanity.{name} is trainsanity.{new} now", DeprecationWarning, stacklevel=2
        )
        name = new
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names: what is imported late is not in the module yet."""
    return sorted([*__all__, "__version__"])
