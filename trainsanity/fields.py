"""Rows and batches: how they are reached, and which tensors they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def is_indexable(dataset: Any) -> bool:
    """Whether rows can be asked for by number; a stream gives them one after the other."""
    from torch.utils.data import IterableDataset

    # Torch's streams inherit a __getitem__ that raises.
    numbered = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
    return numbered and hasattr(dataset, "__len__")
