"""Shared by the checks of the schedule stage."""

from __future__ import annotations

RELATIVE = 1e-9
"""Both curves are the same few double-precision operations; this allows a thousand roundings."""
