"""Hashes of tensors as they are computed on a device, and copies by way of two blocks."""

from __future__ import annotations

import re

import pytest
import torch

from trainsanity.isolation.hashing import ROW, hashes, on_device
from trainsanity.isolation.host_memory import (
    Lane,
    _bytes,
    fetch,
    loads,
    room_for,
    send,
    to_device,
    to_host,
)
from trainsanity.isolation.kinds import _equal_bits
from trainsanity.types import Skip

SIZES = [0, 1, 7, 8, 63, 8 * ROW - 1, 8 * ROW, 8 * ROW + 1, 8 * (3 * ROW + 5) + 3]


def bits(size: int) -> torch.Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.manual_seed(size))


def told(bits: torch.Tensor) -> list[int]:
    (sums,) = on_device([bits]).tolist()
    return sums


@pytest.mark.parametrize("size", SIZES)
def test_the_hash_of_a_device_sees_each_bit_and_each_swap(size):
    one = bits(size)
    assert told(one) == told(one.clone())
    # Every byte of a short tensor; of a long one the ends of words, rows and the whole.
    places = {0, 1, 7, 8, 8 * ROW - 1, 8 * ROW, size // 2, size - 9, size - 8, size - 1}
    for place in sorted(places & set(range(size))) if size > 100 else range(size):
        for bit in (1, 128):
            other = one.clone()
            other[place] ^= bit
            assert told(other) != told(one), (place, bit)
        for partner in (0, size - 1, (place + 8) % size, (place + 8 * ROW) % size):
            other = one.clone()
            other[place], other[partner] = one[partner].item(), one[place].item()
            assert (told(other) != told(one)) == (not torch.equal(other, one)), (place, partner)


def test_the_hash_on_a_device_does_not_depend_on_what_is_hashed_beside_it():
    ones = [bits(size) for size in SIZES]
    assert on_device(ones).tolist() == [told(one) for one in ones]
    assert on_device(ones[::-1]).tolist() == [told(one) for one in ones[::-1]]
    # Bits are hashed, whatever they stand for.
    numbers = [torch.randn(ROW + 3, dtype=kind) for kind in (torch.float64, torch.bfloat16)]
    assert on_device(numbers).tolist() == [told(one.view(torch.uint8)) for one in numbers]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64, torch.bool])
def test_a_tensor_is_seen_as_its_bytes(shape, kind):
    tensor = torch.ones(shape, dtype=kind)
    seen = _bytes(tensor)
    assert (seen.dtype, seen.dim()) == (torch.uint8, 1)
    assert len(seen) == tensor.numel() * tensor.element_size()
    assert seen.data_ptr() == tensor.data_ptr()


def test_the_hash_of_a_piece_is_that_of_its_copy():
    whole = bits(1001)
    for start in range(9):
        assert told(whole[start:]) == told(whole[start:].clone())


def test_hashes_name_what_is_missing_and_tell_dtypes_bits_apart():
    ones = [None, torch.ones(3), torch.ones(3, dtype=torch.bfloat16), torch.ones(2, 2).t()]
    first, single, half, square = hashes(ones)
    assert first is None
    assert len({single, half, square}) == 3
    assert hashes([torch.zeros(2), -torch.zeros(2)])[0] != hashes([-torch.zeros(2)])[0]


@pytest.mark.parametrize("size", [1, 3, 16, 1000])
def test_copies_by_way_of_two_blocks_are_exact_both_ways(size):
    there = [bits(n) for n in (0, 1, 2, 15, 16, 17, 100, 0, 33)]
    here = [torch.zeros_like(one) for one in there]
    pairs = list(zip(there, here, strict=True))
    assert sum(len(piece[0]) for load in loads(pairs, size) for piece in load) == sum(
        len(one) for one in there
    )
    assert all(piece[2] + len(piece[0]) <= size for load in loads(pairs, size) for piece in load)
    lanes = [Lane(torch.zeros(size, dtype=torch.uint8)) for _ in range(2)]
    fetch(pairs, lanes)
    assert all(map(torch.equal, there, here))
    for one in there:
        one.zero_()
    send(pairs, lanes)
    assert all(map(torch.equal, there, here))


def test_what_was_not_written_to_is_not_hashed_again():
    known = {}
    one, other = torch.ones(3), torch.ones(4)
    before = hashes([one, other, None], known)
    known |= dict.fromkeys(known, "known")
    assert hashes([one, other, None], known) == ["known", "known", None]
    one.zero_()
    assert hashes([one, other], known) == [hashes([one])[0], "known"]
    assert before == hashes([torch.ones(3), torch.ones(4), None])
    with torch.inference_mode():
        uncounted = torch.ones(3)
    assert hashes([uncounted, uncounted], known) == [before[0]] * 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu, id="cuda")])
def test_what_is_copied_to_the_host_comes_back(device):
    ones = [
        torch.randn(300, 400, device=device, dtype=torch.bfloat16),
        torch.randn(20, 30, device=device).t(),
        torch.tensor(1.5, device=device),
        torch.randn(5_000_000, device=device),
    ]
    expected = [one.cpu().clone() for one in ones]
    copies = to_host(ones)
    for one in ones:
        one.zero_()
    assert all(map(torch.equal, copies, expected))
    to_device(copies, ones)
    assert all(torch.equal(one.cpu(), same) for one, same in zip(ones, expected, strict=True))
    assert hashes(ones) == hashes([one.clone() for one in ones])


def test_what_host_memory_has_no_room_for_is_skipped_with_its_size():
    import psutil

    room_for(2**20)
    everything = psutil.virtual_memory().total
    with pytest.raises(Skip) as refused:
        room_for(2 * everything)
    needed, free = map(float, re.findall(r"([\d.]+) GiB", str(refused.value).replace(",", "")))
    assert needed == pytest.approx(2 * everything / 2**30, abs=0.06)
    assert 0 < free < everything / 2**30


def test_a_column_with_gaps_is_compared_bit_by_bit():
    table = torch.randn(8, 4)
    column = table[:, :1]
    assert _equal_bits(column, table[:, :1].clone())
    assert not _equal_bits(column, table[:, 1:2])
