"""Tensors in safetensors files, and a model's beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

PART = 4096
"""Elements compared of each tensor, from its first rows: what is drawn anew is drawn as a whole,
and the first rows of an embedding are no added tokens."""


def stored_tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Return the open file that holds each tensor, by name."""
    from safetensors import safe_open

    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if not path.name.startswith("adapter"):
            file = stack.enter_context(safe_open(str(path), framework="pt"))
            found |= dict.fromkeys(file.keys(), file)
    return found


def share_that_differs(parameter: Tensor, part: Any, shape: list[int]) -> float:
    """Elements that differ by more than rounding to a dtype that the model was loaded in."""
    return min(float((~same).float().mean()) for _, same in _compared(parameter, part, shape))


def rows_as_stored(parameter: Tensor, part: Any, shape: list[int], rows: list[int]) -> set[int]:
    """Return those of some rows of a matrix that are the file's, but for rounding to a dtype."""
    import torch

    there = part[:]
    known = [row for row in rows if row < min(shape[0], len(parameter))]
    here = parameter.detach()[known].cpu()
    kept: set[int] = set()
    for dtype in dict.fromkeys((here.dtype, torch.bfloat16, torch.float16)):
        same = (there[known].to(dtype).to(here.dtype) == here).all(-1).tolist()
        kept |= {row for row, one in zip(known, same, strict=True) if one}
    return kept


def only_zeros_differ(parameter: Tensor, part: Any, shape: list[int]) -> bool:
    """Return whether single weights were set to zero, and the others are the file's."""
    return any(
        bool((same | (here == 0)).all()) and bool((same & (here != 0)).any())
        for here, same in _compared(parameter, part, shape)
    )


def _compared(parameter: Tensor, part: Any, shape: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the first elements and where they are the file's, by dtypes that it was loaded in."""
    import torch

    rows = max(1, PART // max(1, math.prod(shape[1:])))
    there = part[: min(rows, shape[0], len(parameter))] if shape else part[:]
    here = parameter.detach()[: len(there)].cpu() if shape else parameter.detach().cpu()
    for dtype in dict.fromkeys((here.dtype, torch.bfloat16, torch.float16)):
        yield here, there.to(dtype).to(here.dtype) == here
