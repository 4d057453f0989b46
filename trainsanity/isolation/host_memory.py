"""Copy tensors of a device to host memory and back.

Copying 8 GB of weights one by one to pageable memory takes seconds, most of them page faults.  Here
they pass through two blocks of pinned memory: while the device writes one block, all CPU cores copy
the other one to its destination.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor

    Pair = tuple[Tensor, Tensor]
    """One memory on the device and on the host, each ``[N]`` uint8."""
    Piece = tuple[Tensor, Tensor, int]
    """A part of a pair, and where it lies in a block."""

GIB = 2**30

BLOCK = 1 << 27
"""Bytes of a pinned block: large enough for the bus to run at full speed, small enough to keep."""


def room_for(needed: int) -> None:
    """Check that host memory has room for so many bytes.

    Raises:
        Skip: it has not; the text says how much is needed and how much is free.
    """
    import psutil

    free = psutil.virtual_memory().available
    if needed > free:
        raise Skip(
            f"what is to be put back afterwards does not fit into host memory: {needed / GIB:,.1f} "
            f"GiB of weights and states, and {free / GIB:,.1f} GiB are free"
        )


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return a copy of each tensor on the CPU; of a sharded one this process's part."""
    import torch

    copies: list[Tensor] = []
    staged: dict[Any, list[Pair]] = {}
    for tensor in tensors:
        own = _here(tensor)
        if own.device.type == "cuda" and own.is_contiguous():
            copies.append(torch.empty_like(own, device="cpu"))
            staged.setdefault(own.device, []).append((_bytes(own), _bytes(copies[-1])))
        else:
            copies.append(own.to("cpu", copy=True))
    for device, pairs in staged.items():
        with _lanes(device) as lanes:
            fetch(pairs, lanes)
    return copies


def to_device(copies: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Write the copies back into their tensors."""
    staged: dict[Any, list[Pair]] = {}
    for tensor, copy in zip(tensors, copies, strict=True):
        own = _here(tensor)
        if own.device.type == "cuda" and own.is_contiguous():
            staged.setdefault(own.device, []).append((_bytes(own), _bytes(copy)))
        else:
            own.copy_(copy)
    for device, pairs in staged.items():
        with _lanes(device) as lanes:
            send(pairs, lanes)


def fetch(pairs: Sequence[Pair], lanes: Sequence[Lane]) -> None:
    """Copy the first of each pair to the second; one block is emptied while the next one fills."""
    waiting: tuple[Lane, list[Piece]] | None = None
    for number, load in enumerate(loads(pairs, len(lanes[0].block))):
        lane = lanes[number % len(lanes)]
        for device, _, place in load:
            lane.block[place : place + len(device)].copy_(device, non_blocking=True)
        lane.sent()
        if waiting is not None:
            _empty(*waiting)
        waiting = lane, load
    if waiting is not None:
        _empty(*waiting)


def _empty(lane: Lane, load: list[Piece]) -> None:
    lane.wait()
    for _, host, place in load:
        host.copy_(lane.block[place : place + len(host)])


def send(pairs: Sequence[Pair], lanes: Sequence[Lane]) -> None:
    """Copy the second of each pair to the first; one block fills while the device reads another."""
    for number, load in enumerate(loads(pairs, len(lanes[0].block))):
        lane = lanes[number % len(lanes)]
        lane.wait()
        for device, host, place in load:
            piece = lane.block[place : place + len(host)]
            piece.copy_(host)
            device.copy_(piece, non_blocking=True)
        lane.sent()


def loads(pairs: Sequence[Pair], size: int) -> Iterator[list[Piece]]:
    """Split the pairs into pieces and group them into loads of at most ``size`` bytes."""
    load: list[Piece] = []
    place = 0
    for device, host in pairs:
        start = 0
        while start < len(device):
            end = min(len(device), start + size - place)
            load.append((device[start:end], host[start:end], place))
            place += end - start
            start = end
            if place == size:
                yield load
                load, place = [], 0
    if load:
        yield load


@dataclass
class Lane:
    """A block of pinned host memory with the event that the device is done with it.

    Attributes:
        block: ``[BLOCK]`` uint8.
        event: None where copies are synchronous, as on the CPU.
    """

    block: Tensor
    event: Any = None

    def sent(self) -> None:
        """Record that the last copy of this block was issued."""
        if self.event is not None:
            self.event.record()

    def wait(self) -> None:
        """Wait for the copies that were issued."""
        if self.event is not None:
            self.event.synchronize()


@contextmanager
def _lanes(device: Any) -> Iterator[list[Lane]]:
    """Yield two lanes on a stream of their own, synchronised at the end."""
    import torch

    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(stream):
        blocks = [torch.empty(BLOCK, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        yield [Lane(block, torch.cuda.Event()) for block in blocks]
    stream.synchronize()


def _here(tensor: Any) -> Tensor:
    own: Tensor = tensor.detach()
    return own.to_local() if hasattr(own, "to_local") else own


def _bytes(tensor: Tensor) -> Tensor:
    """Return the tensor's memory as ``[N]`` uint8."""
    import torch

    return tensor.view(-1).view(torch.uint8)
