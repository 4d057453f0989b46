"""Is this fine-tuning run sane?  Answered before the first GPU hour.

``import trainsanity`` loads no torch; the public names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Abstain": "types",
    "Check": "types",
    "CheckFailure": "errors",
    "Cost": "types",
    "Finding": "types",
    "Pipeline": "pipeline",
    "PipelineSpec": "pipeline",
    "Result": "types",
    "SanityCallback": "callback",
    "Seen": "types",
    "Skip": "types",
    "Status": "types",
    "UsageError": "errors",
    "check": "registry",
    "parametrize_with_checks": "pytest_plugin",
}

__all__ = [
    "Abstain",
    "Check",
    "CheckFailure",
    "Cost",
    "Finding",
    "Pipeline",
    "PipelineSpec",
    "Result",
    "SanityCallback",
    "Seen",
    "Skip",
    "Status",
    "UsageError",
    "check",
    "parametrize_with_checks",
]

if TYPE_CHECKING:
    from .callback import SanityCallback
    from .errors import CheckFailure, UsageError
    from .pipeline import Pipeline, PipelineSpec
    from .pytest_plugin import parametrize_with_checks
    from .registry import check
    from .types import Abstain, Check, Cost, Finding, Result, Seen, Skip, Status


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
