"""TS332 collator.sounds_are_in_range."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.loudest import ABOVE, Loudest
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

WAVES = 2
"""Dimensions of a batch of sounds; spectrograms have three."""


@check(
    "TS332",
    "collator.sounds_are_in_range",
    needs=("trainer", "data_collator"),
    rules_out="sounds in integers",
)
def sounds_are_in_range(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Sounds are no louder than the feature extractor's loudest.

    What it checks: the highest value of the first step's sounds or spectrograms against what the
    pipeline's feature extractor makes of full scale, which is from -1 to 1.

    Why it matters: ``scipy.io.wavfile.read`` and ``soundfile.read(dtype="int16")`` give 16-bit
    integers. As they are, a spectrogram of logarithms lies where the checkpoint has never seen
    one, and nothing complains.

    How it is measured: the extractor is asked, with sines over all frequencies and with noise, at
    full scale and eight times above it, where no recording lies. A batch above the latter is a
    failure. An extractor that scales each sound by itself makes the same of both, and is left out.
    Without an extractor ``input_values`` are a failure where all are whole numbers and above 8.

    How to fix: divide by what the integers go to::

        # bad
        rate, sound = scipy.io.wavfile.read(file)
        # good
        rate, sound = scipy.io.wavfile.read(file)
        sound = sound / 32768

    Known false alarms: none known.

    References: huggingface/transformers#19888.
    """
    whole = _whole_numbers(batch)
    if whole:
        name, most, full = "input_values", whole, 1.0
        problem = f"{name} of the first step are whole numbers, up to {whole:.0f}; full scale is 1"
    else:
        loudest: Loudest = Session.of(pipeline).measurements.get("loudest")
        name, full = loudest.name, loudest.full
        found = [
            micro.inputs[name]
            for micro in batch
            if getattr(micro.inputs.get(name), "ndim", 0) >= WAVES
        ]
        if not found:
            raise Skip(f"the batch has no {name}")
        most = max(float(one.max()) for one in found)
        problem = "" if most <= loudest.above else (
            f"{name} of the first step reach {most:.4g}; the feature extractor makes {full:.4g} of "
            f"full scale, and {loudest.above:.4g} of {ABOVE:g} times that"
        )  # fmt: skip
    if problem:
        yield Finding(
            problem,
            observed=most,
            expected=f"at most {full:.4g}",
            where=name,
            cause="sounds are 16-bit integers, and were not divided by 32768",
            fix="sound / 32768, before the feature extractor is given it",
        )
    yield Measured(
        f"{name} of the first step reach {most:.4g}; full scale is {full:.4g} there", most, full
    )


def _whole_numbers(batch: Batch) -> float:
    """Return the largest of sounds that are whole numbers all over; 0 where they are not."""
    most = 0.0
    for micro in batch:
        value: Any = micro.inputs.get("input_values")
        if getattr(value, "ndim", 0) != WAVES or not value.is_floating_point():
            return 0.0
        if not bool((value == value.round()).all()):
            return 0.0
        most = max(most, float(value.abs().max()))
    return most if most > ABOVE else 0.0
