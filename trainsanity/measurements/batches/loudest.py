"""What a feature extractor makes of the loudest sound that a recording can hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ABOVE = 8.0
"""How far above full scale no recording lies: 18 decibels. Chosen: resampling and gain go beyond
full scale by 6 decibels at the most, 16-bit integers lie 90 above."""

PITCHES = 16
"""Sines, evenly spaced from 1 % to 90 % of the highest frequency: one in each part of a bank of
filters."""

SAME = 1e-3
"""Relative: two results that differ by less do not depend on how loud a sound is."""


@dataclass(frozen=True)
class Loudest:
    """The highest values of a feature extractor.

    Attributes:
        name: the input of the model that it makes.
        full: of sounds between -1 and 1.
        above: of the same sounds, :data:`ABOVE` times as loud.
    """

    name: str
    full: float
    above: float


@measurement(Cost.STATIC)
def loudest(pipeline: Pipeline) -> Loudest:
    """Give the pipeline's feature extractor sines and noise at full scale, and beyond it.

    Raises:
        Skip: there is none, or what it makes does not depend on how loud a sound is.
    """
    processor = getattr(pipeline.trainer, "processing_class", None)
    extractor = getattr(processor, "feature_extractor", processor)
    rate = getattr(extractor, "sampling_rate", None)
    if not callable(extractor) or not isinstance(rate, int) or rate <= 0:
        raise Skip("the pipeline has no feature extractor of sounds")
    with preserved(pipeline), quiet(pipeline):
        name, full = _highest(extractor, rate, 1.0)
        _, above = _highest(extractor, rate, ABOVE)
    if not above > full + SAME * abs(full):
        raise Skip("the feature extractor makes the same of a sound and of a louder one")
    return Loudest(name, full, above)


def _highest(extractor: Any, rate: int, scale: float) -> tuple[str, float]:
    import numpy

    time = numpy.arange(rate) / rate
    draw = numpy.random.default_rng(0)
    pitches = numpy.geomspace(0.01, 0.9, PITCHES) * rate / 2
    sounds = [
        *(numpy.sin(2 * numpy.pi * pitch * time) for pitch in pitches),
        draw.choice([-1.0, 1.0], rate),
    ]
    given = [(scale * one).astype(numpy.float32) for one in sounds]
    try:
        made = extractor(given, sampling_rate=rate, return_tensors="np", padding=True)
    except Exception as error:  # an extractor of something else, or with arguments of its own
        raise Skip("the feature extractor does not take sounds of one second") from error
    for name in ("input_features", "input_values"):
        if name in made:
            return name, float(numpy.max(made[name]))
    raise Skip("the feature extractor makes no input_features or input_values")
