"""The same batch with other tokens in its padding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainsanity.objectives.base import IGNORED
from trainsanity.repairs.batches import COUNTED

MORE = 4
"""Columns of padding that are added: a row's neighbour is often so much longer."""


def other_padding(
    inputs: Mapping[str, Any], *, alike: bool = False
) -> tuple[dict[str, Any] | None, int]:
    """Return the batch with other token ids where its masks say padding, and how many there are.

    Args:
        inputs: the batch.
        alike: give all of them one id, which is rarer in the batch than others.
    """
    import torch

    changed, count = dict(inputs), 0
    for name, ids in inputs.items():
        mask = next((inputs[other] for other in _masks(name) if other in inputs), None)
        if not (torch.is_tensor(ids) and torch.is_tensor(mask)):
            continue
        if ids.dim() != 2 or ids.shape != mask.shape or ids.is_floating_point():
            continue
        hidden = mask == 0
        # The token after the last padding on the left is predicted there, in any language model.
        hidden[:, :-1] &= mask[:, 1:] == 0
        if not bool(hidden.any()) or bool(hidden.all()):
            continue
        # Tokens that do occur, each another one than stands there; backwards, for a model may look
        # for a phrase, as an adapter does that acts from its last occurrence on.
        real = ids[~hidden].flip(0)
        new = real[torch.arange(ids.numel(), device=ids.device) % len(real)].view_as(ids)
        new = torch.where(new == ids, real.roll(1)[0].expand_as(ids), new)
        if alike:
            kinds, often = real[~torch.isin(real, ids[hidden])].unique(return_counts=True)
            if not len(kinds):
                continue
            new = kinds[often.argmin()].expand_as(ids)
        changed[name] = torch.where(hidden, new, ids)
        count += int(hidden.sum())
    return (changed, count) if count else (None, 0)


def more_padding(inputs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, int]:
    """Return the batch with columns of padding added on the right, and the positions these have.

    Asked of batches of several sequences a row, each with ids and a mask under names of its own,
    that are padded on the right: as the longest row would stand beside a longer one.  None where
    another tensor of the same width might mean anything.
    """
    import torch

    changed, count = dict(inputs), 0
    for name, ids in inputs.items():
        of_mask = next((other for other in _masks(name) if other in inputs), None)
        mask = inputs[of_mask] if of_mask is not None else None
        if not (torch.is_tensor(ids) and torch.is_tensor(mask)) or name == "input_ids":
            continue
        if ids.dim() != 2 or ids.shape != mask.shape or ids.is_floating_point():
            continue
        hidden = mask == 0
        if not bool(hidden.any()) or bool(hidden[:, 0].any()):
            continue  # no padding, or on the left, where it moves absolute positions
        if bool((hidden[:, :-1] & ~hidden[:, 1:]).any()):
            continue
        pad = ids[hidden][0]
        changed[name] = torch.cat([ids, pad.expand(len(ids), MORE)], 1)
        changed[str(of_mask)] = torch.cat([mask, mask.new_zeros(len(ids), MORE)], 1)
        count += len(ids) * MORE
    widths = {changed[n].shape[1] - MORE for n in inputs if changed[n] is not inputs[n]}
    others = [
        v for n, v in inputs.items() if changed[n] is v and torch.is_tensor(v) and v.dim() > 1
    ]
    if any(widths & {*value.shape[1:]} for value in others):
        return None, 0
    return (changed, count) if count else (None, 0)


def _masks(name: str) -> tuple[str, ...]:
    """Return the names under which a batch would keep the mask of these token ids."""
    for ending in ("input_ids", "ids"):
        if name.endswith(ending):
            stem = name.removesuffix(ending)
            return f"{stem}attention_mask", f"{stem}mask"
    return ()


def labelled_padding(inputs: Mapping[str, Any]) -> int:
    """Return how many targets of a batch lie where its attention mask is 0."""
    import torch

    mask = inputs.get("attention_mask")
    said = {name: inputs.get(name) for name in ("labels", *COUNTED)}
    return sum(
        int(((mask == 0) & (one != (IGNORED if name == "labels" else 0))).sum())
        for name, one in said.items()
        if torch.is_tensor(one) and torch.is_tensor(mask) and one.shape == mask.shape
    )
