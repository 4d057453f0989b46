"""Shared by checks of the schedule stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


RELATIVE = 1e-9
"""Both curves are the same few double-precision operations; this allows a thousand roundings."""
