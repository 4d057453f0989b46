"""A few rows from all over a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainsanity.fields import is_indexable
from trainsanity.types import Skip

ROWS = 16
"""Rows that are evaluated, where the batches are smaller; two full batches and a half at least."""

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it are spread evenly between 0 and 1, and have no period."""


def few_rows(data: Any, size: int) -> Any:
    """Return rows from all over the data, some full batches and a half one.

    Raises:
        Skip: it is a stream that cannot be cut.
    """
    if isinstance(data, Mapping):
        return {name: few_rows(part, size) for name, part in data.items()}
    count = max(2, ROWS // size) * size + size // 2
    if is_indexable(data):
        if len(data) <= count:
            return data
        # No multiple of a period in which rows of a kind may come again.
        places = sorted({int(k * GOLDEN % 1 * len(data)) for k in range(count)})
        if hasattr(data, "select"):
            return data.select(places)
        from torch.utils.data import Subset

        return Subset(data, places)
    if hasattr(data, "take"):
        return data.take(count)
    raise Skip("the evaluation data is a stream that only ends with its last row")
