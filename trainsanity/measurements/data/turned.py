"""Evaluation pictures that are training pictures, flipped or turned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.fields import PIXELS, is_indexable, role_of
from trainsanity.isolation.snapshot import preserved
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

LOOKED_AT = 64
"""Evaluation pictures that are looked for."""

VALUES = 1 << 24
"""Values of training pictures that are read: 100 pictures of ImageNet's size, in a second."""

DIFFERENT = 32
"""Different values of a picture: a board of a game mirrors another one by chance."""

PICTURE = 3
"""Dimensions of a picture: channels, height and width in one order or the other."""


@dataclass(frozen=True)
class Turned:
    """Evaluation pictures that are training pictures in another position.

    Attributes:
        looked_at: pictures that were looked for.
        rows: how many of them were found.
        first: the places of the first of them and of its training picture; None if there is none.
        how: what makes the one of the other.
    """

    looked_at: int = 0
    rows: int = 0
    first: tuple[int, int] | None = None
    how: str = ""


@measurement(Cost.STATIC)
def turned(pipeline: Pipeline) -> dict[str, Turned]:
    """Look for evaluation pictures among the training pictures, flipped and turned.

    Empty where rows hold no pictures, or are drawn anew each time they are asked for.
    """
    data, evals = pipeline.train_dataset, pipeline.eval_dataset
    every = evals if isinstance(evals, Mapping) else {"eval_dataset": evals}
    named = {
        name: one
        for name, one in every.items()
        if one is not None and is_indexable(one) and len(one)
    }
    if not named or not is_indexable(data) or not len(data):
        return {}
    with preserved(pipeline):
        first, again = _picture(data[0]), _picture(data[0])
        if first is None or again is None or first.tobytes() != again.tobytes():
            return {}
        known: dict[Any, list[tuple[int, Any]]] = {}
        for k, picture in _pictures(data, range(min(len(data), VALUES // first.size))):
            known.setdefault(_signature(picture), []).append((k, picture))
        return {name: _found(one, known) for name, one in named.items()}


def _found(data: Any, known: Mapping[Any, list[tuple[int, Any]]]) -> Turned:
    size = min(LOOKED_AT, len(data))
    looked_at = rows = 0
    first, how = None, ""
    for place, picture in _pictures(data, (k * len(data) // size for k in range(size))):
        looked_at += 1
        for own, other in known.get(_signature(picture), ()):
            turn = _turn(picture, other)
            if turn:
                rows += 1
                if first is None:
                    first, how = (place, own), turn
                break
    return Turned(looked_at, rows, first, how)


def _pictures(data: Any, places: Any) -> Iterator[tuple[int, Any]]:
    import numpy

    for place in places:
        picture = _picture(data[place])
        if picture is not None and len(numpy.unique(picture)) >= DIFFERENT:
            yield place, picture


def _picture(row: Any) -> Any:
    """Return a row's picture as an array, 1 or 3 channels first; None without one."""
    import numpy

    if not isinstance(row, Mapping):
        return None
    value = next((row[name] for name in row if role_of(name) == PIXELS and name != "labels"), None)
    if value is None or isinstance(value, str | bytes | Mapping):
        return None
    try:
        made = numpy.asarray(value)
    except (TypeError, ValueError):
        return None
    if made.ndim != PICTURE or made.dtype == object or not made.size:
        return None
    return numpy.moveaxis(made, -1, 0) if made.shape[0] not in (1, PICTURE) else made


def _signature(picture: Any) -> tuple[Any, ...]:
    """Return what a picture has in common with itself in all positions."""
    import numpy

    values = numpy.ascontiguousarray(picture)
    bits = values.view(f"u{values.dtype.itemsize}").astype(numpy.uint64)
    flat = bits.reshape(len(bits), -1)
    sums = flat.sum(1), (flat * flat).sum(1)  # both modulo 2 ** 64, which no order changes
    return tuple(sorted(picture.shape)), *(tuple(one.tolist()) for one in sums)


def _turn(picture: Any, other: Any) -> str:
    """Return how the one becomes the other; empty where they are the same, or unlike."""
    import numpy

    if picture.shape == other.shape and numpy.array_equal(picture, other):
        return ""
    for quarters in range(4):
        for mirrored in (False, True):
            made = numpy.rot90(picture, quarters, (1, 2))
            made = made[:, :, ::-1] if mirrored else made
            if made.shape == other.shape and numpy.array_equal(made, other):
                turned = f"turned by {90 * quarters} degrees" if quarters else ""
                return " and ".join(filter(None, (turned, "mirrored" if mirrored else "")))
    return ""
