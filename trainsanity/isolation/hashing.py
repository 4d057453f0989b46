"""Hashes of tensors' bits, computed where the tensors live."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import local

if TYPE_CHECKING:
    from torch import Tensor

ROW = 4_096
"""Words that are summed up in one row of a tensor: short enough for many rows, and the sums over
the columns are few."""

GOLDEN = -7046029254386353131
"""2**64 / golden ratio, as a signed number: its multiples are spread over 64 bits."""

Known = dict[Any, Any]
"""Hashes, by which tensor it is and how often it was written to: see :func:`_stamp`."""


def hashes(tensors: Iterable[Any], known: Known | None = None) -> list[Any]:
    """A hash of each tensor's bits (None for none); one wait for the device at the end.

    Of a tensor that several processes hold in parts, the bits are those of the own part.

    Args:
        tensors: on any device.
        known: what is in it is not computed again, and what is not is added.
    """
    import xxhash

    known = {} if known is None else known
    stamps: list[Any] = []
    there: dict[Any, dict[Any, Tensor]] = {}
    for tensor in tensors:
        if tensor is None or tensor.is_meta:
            stamps.append(None)
            continue
        stamp = _stamp(tensor)
        stamps.append(stamp)
        if stamp in known:
            continue
        own = local(tensor.detach())
        if own.device.type == "cpu":
            known[stamp] = xxhash.xxh3_64_intdigest(_bits(own).numpy())
        else:
            there.setdefault(own.device, {})[stamp] = own
    for waiting in there.values():
        known.update(zip(waiting, on_device([*waiting.values()]).tolist(), strict=True))
    return [known.get(stamp) for stamp in stamps]


def _stamp(tensor: Tensor) -> Any:
    """Equal for a tensor that nothing but ``.data`` was written to through in between."""
    if tensor.is_inference():  # without a count of its changes
        return object()
    own = local(tensor.detach())
    return id(tensor), own.data_ptr(), tensor._version, tuple(own.shape), own.dtype


def _bits(tensor: Tensor) -> Any:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8)


def on_device(many: list[Tensor]) -> Tensor:
    """For each, four sums over its bits, ``[len(many), 4]`` int64; they are read twice.

    A copy to the host would cost more than the look that it guards.  The words of eight bytes are
    laid out in rows; the sums of the rows, and those of the columns, are added up with weights by
    place.  Weights are odd, so that a word that changes always changes both sums (modulo 2**64);
    two words that change places differ in row or in column.  What fills no row, and the bytes that
    fill no word, have sums of their own.

    The tensors of a model are many and most take less time to read than to ask for, so the sums
    of all lie in one piece, which is weighted and added up at once.

    Args:
        many: of any dtype, on one device, one at the least.
    """
    import torch

    sizes = [size for tensor in many for size in _sizes(tensor.numel() * tensor.element_size())]
    device = many[0].device
    sums = torch.empty(sum(sizes), dtype=torch.int64, device=device)
    pieces = iter(sums.split(sizes))
    for tensor, *four in zip(many, pieces, pieces, pieces, pieces, strict=True):
        _add_up(_bits(tensor), *four)
    lengths = torch.tensor(sizes, device=device)
    part = torch.arange(len(sizes), device=device)
    part = part.repeat_interleave(lengths, output_size=len(sums))
    places = torch.arange(len(sums), device=device) - (lengths.cumsum(0) - lengths)[part]
    weighted = sums * (places * GOLDEN | 1)
    # Integers: in whatever order they are added, the sum is one.
    return torch.zeros_like(lengths).index_add_(0, part, weighted).view(-1, 4)


def _sizes(length: int) -> tuple[int, int, int, int]:
    """Of so many bytes: rows, columns, words that fill no row, bytes that fill no word."""
    words, tail = divmod(length, 8)
    rows, rest = divmod(words, ROW)
    return rows, ROW if rows else 0, rest, tail


def _add_up(bits: Tensor, rows: Tensor, columns: Tensor, rest: Tensor, tail: Tensor) -> None:
    import torch

    if bits.storage_offset() % 8:
        bits = bits.clone()  # a piece of a larger tensor: words begin at multiples of eight bytes
    words = bits[: len(bits) // 8 * 8].view(torch.int64)
    if len(rows):
        table = words[: len(rows) * ROW].view(-1, ROW)
        torch.sum(table, 1, out=rows)
        torch.sum(table, 0, out=columns)
    if len(rest):
        rest.copy_(words[len(rows) * ROW :])
    if len(tail):
        tail.copy_(bits[len(words) * 8 :])
