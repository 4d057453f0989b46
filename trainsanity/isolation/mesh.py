"""Processes that share rows, and those that share weights."""

from __future__ import annotations

import math
from typing import Any

from trainsanity.maths.factors import SHARING


def sharing_rows(trainer: Any) -> dict[str, int]:
    """Return the sizes of the dimensions along which processes share rows; empty without any."""
    config = getattr(getattr(trainer, "accelerator", None), "parallelism_config", None)
    sizes = {name: int(getattr(config, name, 1) or 1) for name in SHARING}
    return {name: size for name, size in sizes.items() if size > 1}


def a_group(trainer: Any) -> int:
    """Return how many processes, one after the other in rank, are given the same rows.

    The mesh has the dimensions of data before the others (``ParallelismConfig.get_mesh``).
    """
    return math.prod(sharing_rows(trainer).values())
