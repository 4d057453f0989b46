"""Shared by checks of the loop stage."""

from __future__ import annotations

TOGETHER = "several processes"
