"""A hash of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainsanity.measurements.runs.order import fingerprint


def hash_of(inputs: Any) -> str:
    """Return a hash of a batch's tensors: names, shapes and bits; of all of a list of rows."""
    import torch
    import xxhash

    if not isinstance(inputs, Mapping):
        rows = inputs if isinstance(inputs, list) else [inputs]
        return " ".join(map(fingerprint, rows))
    digest = xxhash.xxh3_64()
    for name in sorted(inputs):
        value = inputs[name]
        if torch.is_tensor(value):
            bits = value.detach().cpu().contiguous()
            digest.update(f"{name}{tuple(bits.shape)}{bits.dtype}".encode())
            digest.update(bits.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
