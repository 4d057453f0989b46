"""Hash the bits of tensors on the device that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.shards import local

if TYPE_CHECKING:
    from torch import Tensor

ROW = 4_096
"""Eight-byte words in one row of the table that a tensor is laid out in: there are many rows, which
are summed in parallel, and few column sums."""

GOLDEN = -7046029254386353131
"""2**64 / golden ratio as a signed integer; its multiples are spread evenly over 64 bits."""

Known = dict[Any, Any]
"""Hashes by the stamp of their tensor: see :func:`_stamp`."""


def hashes(tensors: Iterable[Any], known: Known | None = None) -> list[Any]:
    """Return a hash of each tensor's bits, None for None; synchronises with each device once.

    A sharded tensor's hash covers the part that this process holds.

    Args:
        tensors: on any device.
        known: hashes that are not computed again; new ones are added.
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
    """Return a key that changes with every write, except one through ``.data``."""
    if tensor.is_inference():  # without a count of its changes
        return object()
    own = local(tensor.detach())
    return id(tensor), own.data_ptr(), tensor._version, tuple(own.shape), own.dtype


def _bits(tensor: Tensor) -> Any:
    import torch

    return tensor.contiguous().view(-1).view(torch.uint8)


def on_device(many: list[Tensor]) -> Tensor:
    """Return four weighted sums over the bits of each tensor, ``[len(many), 4]`` int64.

    Copying the tensors to the host would cost more than the measurement that is guarded.  The
    eight-byte words are laid out in rows.  The sums of the rows and the sums of the columns are
    each added up with odd weights by position: a word that changes changes both (modulo 2**64), and
    two words that are swapped differ in row or in column.  Words that fill no row and bytes that
    fill no word have sums of their own.

    A model has many tensors, most of which take less time to read than to launch a kernel for; so
    the partial sums of all lie in one tensor, which is weighted and added up at once.

    Args:
        many: at least one tensor, of any dtype, all on one device.
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
    # Integer sums do not depend on the order of addition.
    return torch.zeros_like(lengths).index_add_(0, part, weighted).view(-1, 4)


def _sizes(length: int) -> tuple[int, int, int, int]:
    """Split a byte count into rows, columns, leftover words and leftover bytes."""
    words, tail = divmod(length, 8)
    rows, rest = divmod(words, ROW)
    return rows, ROW if rows else 0, rest, tail


def _add_up(bits: Tensor, rows: Tensor, columns: Tensor, rest: Tensor, tail: Tensor) -> None:
    import torch

    if bits.storage_offset() % 8:
        bits = bits.clone()  # a view as int64 has to start at a multiple of eight bytes
    words = bits[: len(bits) // 8 * 8].view(torch.int64)
    if len(rows):
        table = words[: len(rows) * ROW].view(-1, ROW)
        torch.sum(table, 1, out=rows)
        torch.sum(table, 0, out=columns)
    if len(rest):
        rest.copy_(words[len(rows) * ROW :])
    if len(tail):
        tail.copy_(bits[len(words) * 8 :])
