"""Shared by the checks of several processes."""

from __future__ import annotations

TOGETHER = "several processes"
"""The suspect that these checks rule out."""
