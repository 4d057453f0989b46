"""Predictions of known worth: the labels themselves, and labels of other items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.objectives.base import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

SURE = 10.0
"""A logit that makes its class certain beside zeros."""

NEAR = 0.1
"""How far logits lie on either side of a number at which a metric may cut them."""


class Answers:
    """Makes predictions, in the form of those that the model made.

    Attributes:
        shifts: whether the output at a position predicts the token after it.
        fill: id of the padding.
        pad: the same; None where there is none, or it ends texts, too.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.shifts = objective_of(pipeline).shifts
        self.fill = int(getattr(pipeline.tokenizer, "pad_token_id", None) or 0)
        tokenizer = pipeline.tokenizer
        self.pad: int | None = getattr(tokenizer, "pad_token_id", None)
        if self.pad == getattr(tokenizer, "eos_token_id", None):
            self.pad = None
        config = pipeline.config
        self._start = getattr(config, "decoder_start_token_id", None)
        if not getattr(config, "is_encoder_decoder", False):
            self._start = None

    def perfect(self, logits: Any, labels: Any, fill: int = 0) -> Any:
        """Return logits that say what the labels say, in the form of these; None if unknown."""
        return self._each(logits, labels, lambda z, y: self._one(z, y, self.shifts, fill))

    def in_place(self, logits: Any, labels: Any) -> Any:
        """Return logits that at each position say the label of that position."""
        return self._each(logits, labels, lambda z, y: self._one(z, y, False, 0))

    def around(self, centre: float, logits: Any, labels: Any) -> Any:
        """Return logits of several labels a row that are a tenth above or below a number.

        A metric that finds them perfect cuts logits there. None where a row has one label.
        """

        def near(z: Tensor, y: Tensor) -> Tensor | None:
            binary = y.dim() == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all())
            if not binary or z.shape != y.shape or not z.is_floating_point():
                return None
            return centre + (2 * y.to(z) - 1) * NEAR

        return self._each(logits, labels, near)

    def surer(self, logits: Any, labels: Any) -> Any:
        """Return the perfect logits of classes, twice as large; None for other tasks."""
        return self._each(logits, labels, lambda z, y: self._sure(z, y, slice(None)))

    def surer_at_the_end(self, logits: Any, labels: Any) -> Any:
        """Return the perfect logits of classes, twice as large in the last row of each batch."""
        return self._each(logits, labels, lambda z, y: self._sure(z, y, slice(-1, None)))

    def wrong(self, logits: Any, labels: Any) -> Any:
        """Return logits that say something else than each label."""
        return self._each(logits, labels, lambda z, y: self._one(z, _others(z, y), self.shifts, 0))

    def of_the_next_row(self, logits: Any, labels: Any) -> Any:
        """Return the perfect logits, each in the place of the row before it in its batch."""
        return self._each(
            logits, labels, lambda z, y: self._moved(z, y, lambda made: made.roll(1, 0))
        )

    def of_one_row(self, logits: Any, labels: Any) -> Any:
        """Return the perfect logits of each batch's first row, in all of its rows."""
        return self._each(
            logits, labels, lambda z, y: self._moved(z, y, lambda made: made[:1].expand_as(made))
        )

    def alike(self, labels: Any) -> Any:
        """Return the label of each batch's first row, for all of its rows."""
        return _map(labels, lambda y: y[:1].expand_as(y).clone())

    def perfect_and_padding(self, logits: Any, labels: Any) -> Any:
        """Return the perfect logits, and as many positions of padding after them."""
        import torch

        def both(z: Tensor, y: Tensor) -> Tensor | None:
            if y.dim() != 2 or y.is_floating_point() or z.dim() < 2:
                return None
            made = self._one(z, y, self.shifts, 0)
            if made is None or not z.is_floating_point():
                return made  # generated: predictions have a length of their own
            if made.dim() != 3:
                return None
            return torch.cat([made, torch.zeros_like(made)], 1)

        return self._each(logits, labels, both)

    def padded(self, labels: Any) -> Any:
        """Return the labels, and as many positions of padding after them."""
        import torch

        return _map(labels, lambda y: torch.cat([y, torch.full_like(y, IGNORED)], 1))

    def filled(self, labels: Any) -> Any:
        """Return the labels with padding in place of -100."""
        return _map(labels, lambda y: y.masked_fill(y == IGNORED, self.fill))

    def generated(self, inputs: dict[str, Any]) -> Any:
        """Return what a perfect model would generate for the inputs."""
        import torch

        labels = inputs.get("labels")
        if labels is None:
            first = next(value for value in inputs.values() if torch.is_tensor(value))
            labels = first.new_full((len(first), 1), self.fill, dtype=torch.long)
        return self._ids(labels)

    def count(self, labels: Any, rows: int) -> int:
        """Return how many items of the labels a loss counts."""
        if labels is None or labels.dim() < 2 or labels.is_floating_point():
            return rows
        counted = labels[:, 1:] if self.shifts else labels
        return int((counted != IGNORED).sum())

    def lengths(self, labels: Tensor) -> list[int]:
        """Return how many tokens each row of labels has."""
        counted: list[int] = ((labels != IGNORED) & (labels != self.fill)).sum(-1).tolist()
        return counted

    def _ids(self, labels: Tensor) -> Tensor:
        import torch

        ids = labels.masked_fill(labels == IGNORED, self.fill)
        if self._start is None:
            return ids
        return torch.cat([torch.full_like(ids[:, :1], self._start), ids], 1)

    def _each(self, logits: Any, labels: Any, make: Any) -> Any:
        import torch

        if torch.is_tensor(labels):
            if torch.is_tensor(logits):
                return make(logits, labels)
            if isinstance(logits, tuple | list) and logits and torch.is_tensor(logits[0]):
                first = make(logits[0], labels)
                return None if first is None else (first, *logits[1:])
            return None
        # Start and end of an answer, and the like: one of each.
        if not isinstance(labels, tuple | list) or not isinstance(logits, tuple | list):
            return None
        if not 0 < len(labels) <= len(logits):
            return None
        pairs = list(zip(logits, labels, strict=False))
        if not all(torch.is_tensor(z) and torch.is_tensor(y) for z, y in pairs):
            return None
        made = [make(z, y) for z, y in pairs]
        return None if any(one is None for one in made) else (*made, *logits[len(made) :])

    def _moved(self, z: Tensor, y: Tensor, move: Any) -> Tensor | None:
        made = self._one(z, y, self.shifts, 0) if z.is_floating_point() and y.dim() else None
        return None if made is None or len(made) < 2 else move(made).clone()

    def _sure(self, z: Tensor, y: Tensor, rows: slice) -> Tensor | None:
        if not z.is_floating_point() or y.is_floating_point() or z.dim() != y.dim() + 1:
            return None
        made = self._one(z, y, self.shifts, 0)
        if made is not None:
            made = made.clone()
            made[rows] *= 2
        return made

    def _one(self, z: Tensor, y: Tensor, shifts: bool, fill: int) -> Tensor | None:
        import torch

        if not z.is_floating_point():  # generated
            return self._ids(y) if y.dim() == z.dim() == 2 else None
        if y.is_floating_point() or z.shape in (y.shape, (*y.shape, 1)):
            if z.shape not in (y.shape, (*y.shape, 1)):
                return None
            binary = bool(((y == 0) | (y == 1)).all())
            several = y.dim() == 2 and y.shape[1] > 1
            made = (2 * y.to(z) - 1) * SURE if binary and several else y.to(z)
            return made.reshape(z.shape)
        if z.dim() == 4 and y.dim() == 3:  # a class for each pixel, often at another size
            small = torch.nn.functional.interpolate(
                y[:, None].to(z), size=z.shape[2:], mode="nearest"
            )[:, 0].long()
            return self._one_hot(small, z.shape[1], fill).permute(0, 3, 1, 2).to(z)
        if z.dim() != y.dim() + 1 or z.shape[:-1] != y.shape:
            return None
        if shifts and y.dim() == 2:
            y = torch.cat([y[:, 1:], torch.full_like(y[:, :1], IGNORED)], 1)
        if bool((y >= z.shape[-1]).any()):
            return None
        return self._one_hot(y, z.shape[-1], fill).to(z)

    def _one_hot(self, y: Tensor, classes: int, fill: int) -> Tensor:
        import torch

        known = y.clamp(0, classes - 1).masked_fill(y < 0, min(fill, classes - 1))
        return SURE * torch.nn.functional.one_hot(known.long(), classes).float()


def _others(z: Tensor, y: Tensor) -> Tensor:
    """Return for each label another one, of those that there are."""
    if y.is_floating_point():
        if bool(((y == 0) | (y == 1)).all()):
            return 1 - y
        mirrored = 2 * y.mean() - y
        return mirrored if bool((mirrored != y).any()) else y + 1
    there = y[y >= 0].unique()
    if len(there) < 2:
        classes = z.shape[1 if z.dim() == 4 else -1] if z.dim() > y.dim() else 0
        next_one = (y + 1) % classes if classes > 1 else y + 1
        return next_one.where(y >= 0, y)
    place = (y[..., None] == there).long().argmax(-1)
    other: Tensor = there[(place + 1) % len(there)]
    return other.where(y >= 0, y)


def ignored(labels: Any) -> bool:
    """Return whether there is a label of -100."""
    import torch

    parts = labels if isinstance(labels, tuple | list) else (labels,)
    return any(torch.is_tensor(y) and bool((y == IGNORED).any()) for y in parts)


def _map(labels: Any, change: Any) -> Any:
    if isinstance(labels, tuple | list):
        return tuple(change(y) for y in labels)
    return change(labels)
