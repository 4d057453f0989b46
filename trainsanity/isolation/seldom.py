"""Collect garbage less often while large libraries are imported and models are built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

SELDOM = 10_000
"""New objects between two collections.  With 700, Python's default up to 3.12, a fifth of the time
that it takes to import torch and transformers is spent on collections; with more, no less than with
this."""


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Collect garbage less often in the block."""
    young, *older = before = gc.get_threshold()
    if 0 < young < SELDOM:  # 0 is off
        gc.set_threshold(SELDOM, *older)
    try:
        yield
    finally:
        gc.set_threshold(*before)
