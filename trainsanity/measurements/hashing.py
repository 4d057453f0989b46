"""Hashes of tensors' bits, computed where the tensors live."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .sharding import local

if TYPE_CHECKING:
    from torch import Tensor

ROW = 4_096
"""Words that are summed up in one row of a tensor: short enough for many rows, and the sums over
the columns are few."""


Known = dict[Any, Any]
"""Hashes, by which tensor it is and how often it was written to: see :func:`_stamp`."""


def hashes(tensors: Iterable[Any], known: Known | None = None) -> list[Any]:
    """A hash of each tensor's bits (None for none); one wait for the device at the end.

    Of a tensor that several processes hold in parts, the bits are those of the own part.

    Args:
        tensors: on any device.
        known: what is in it is not computed again, and what is not is added.
    """
    import torch

    known = {} if known is None else known
    stamps: list[Any] = []
    for tensor in tensors:
        if tensor is None or tensor.is_meta:
            stamps.append(None)
            continue
        stamps.append(_stamp(tensor))
        if stamps[-1] not in known:
            known[stamps[-1]] = _hash(local(tensor.detach()))
    there = [stamp for stamp in known if torch.is_tensor(known[stamp])]
    if there:
        fetched = torch.stack([known[stamp] for stamp in there]).tolist()
        known.update(zip(there, fetched, strict=True))
    return [known.get(stamp) for stamp in stamps]


def _stamp(tensor: Tensor) -> Any:
    """Equal for a tensor that nothing but ``.data`` was written to through in between."""
    if tensor.is_inference():  # without a count of its changes
        return object()
    own = local(tensor.detach())
    return id(tensor), own.data_ptr(), tensor._version, tuple(own.shape), own.dtype


def _hash(tensor: Any) -> Any:
    import torch
    import xxhash

    bits = tensor.contiguous().view(-1).view(torch.uint8)
    if tensor.device.type == "cpu":
        return xxhash.xxh3_64_intdigest(bits.numpy())
    return on_device(bits)


def on_device(bits: Tensor) -> Tensor:
    """Four sums over the bits, ``[4]`` int64, that read them twice and write next to nothing.

    A copy to the host would cost more than the look that it guards.  The words of eight bytes are
    laid out in rows; the sums of the rows, and those of the columns, are added up with weights by
    place.  Weights are odd, so that a word that changes always changes both sums (modulo 2**64);
    two words that change places differ in row or in column.  What fills no row, and the bytes that
    fill no word, have sums of their own.

    Args:
        bits: ``[N]`` uint8.
    """
    import torch

    if bits.storage_offset() % 8:
        bits = bits.clone()  # a piece of a larger tensor: words begin at multiples of eight bytes
    words = bits[: len(bits) // 8 * 8].view(torch.int64)
    whole = len(words) // ROW * ROW
    table = words[:whole].view(-1, ROW)
    rest = words[whole:]
    rows, columns = table.sum(1), table.sum(0)
    tail = bits[len(words) * 8 :].to(torch.int64)
    parts = (rows, columns, rest, tail)
    return torch.stack([(part * _weights(len(part), bits.device)).sum() for part in parts])


@functools.lru_cache(maxsize=256)
def _weights(count: int, device: Any) -> Tensor:
    """Odd numbers, one for each place, spread over 64 bits (the factor is 2**64 / golden ratio)."""
    import torch

    places = torch.arange(count, dtype=torch.int64, device=device)
    return (places * -7046029254386353131) | 1
