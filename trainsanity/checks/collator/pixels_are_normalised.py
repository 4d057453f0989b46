"""TS318 collator.pixels_are_normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import PIXELS, role_of
from trainsanity.measurements.batches.batch import Batch
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BYTE = 255
"""The highest value of an 8-bit pixel."""

ROUNDING = 1e-3
"""Relative, of a range that is computed in float32 from numbers around 1 (1e-7 of these, against a
range of 1/128 and more)."""

IMAGE = 4
"""Dimensions of a batch of images, at the least."""


@check(
    "TS318",
    "collator.pixels_are_normalised",
    needs=("trainer", "data_collator"),
    rules_out="pixels",
)
def pixels_are_normalised(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """Pixel values have the range that the image processor gives them.

    What it checks: the smallest and the largest pixel of the first step against the range that the
    pipeline's image processor makes of bytes from 0 to 255.

    Why it matters: the processor is saved with the model and prepares what is predicted.  A model
    that was trained on bytes is given numbers between -1 and 1 then.  One whose pictures were
    divided by 255 twice has seen black: the loss falls as far as guessing gets it.

    How it is measured: a byte b becomes (b f - m) / s, with the processor's ``rescale_factor`` f,
    ``image_mean`` m and ``image_std`` s, of its lowest and highest channel.  A failure is a span of
    the pixels of more than twice that range (interpolation overshoots by less than the range
    itself), or of no more than 255 f f / s, the most that is left after rescaling twice.  Pixels
    that use nothing of the lower half of a range that reaches below 0, and lie from 0 to 1, are a
    warning: they were rescaled and not normalised, or are all bright.

    How to fix: let the processor prepare the pictures that are trained on, too::

        # bad: bytes
        torch.tensor(picture).permute(2, 0, 1).float()
        # bad: a transform has divided by 255 before
        processor(picture / 255, return_tensors="pt")
        # good
        processor(picture, return_tensors="pt")

    Known false alarms: pictures of one colour; other statistics than the processor's, on purpose.

    References: huggingface/transformers#25688.
    """
    low, high, level = _range(pipeline)
    found = [
        value
        for micro in batch
        for name, value in micro.inputs.items()
        if role_of(name) == PIXELS and getattr(value, "ndim", 0) >= IMAGE
    ]
    if not found:
        raise Skip(f"the batch has no pixels (it has {', '.join(batch.micro_batches[0].inputs)})")
    least = min(float(value.min()) for value in found)
    most = max(float(value.max()) for value in found)
    seen, expected = most - least, high - low
    range_of = {"lowest": round(low, 4), "highest": round(high, 4)}
    pixels = {"lowest": round(least, 4), "highest": round(most, 4)}
    told = f"pixels of the first step lie between {least:.4g} and {most:.4g}"
    if not seen <= 2 * expected:
        yield Finding(
            f"{told}; the image processor makes {low:.4g} to {high:.4g} of bytes",
            observed=pixels,
            expected=range_of,
            factor=seen / expected,
            cause="the pictures do not go through the processor that is saved with the model",
            fix="processor(picture, return_tensors='pt') for what is trained on, too",
        )
    elif seen <= level * (1 + ROUNDING):
        yield Finding(
            f"{told}: less than one of 255 levels, and the image processor makes {low:.4g} to "
            f"{high:.4g} of bytes",
            observed=pixels,
            expected=range_of,
            factor=seen / expected,
            cause="the pictures were divided by 255 before the processor did so again",
            fix="give the processor bytes, or do_rescale=False",
        )
    elif low < -seen / 2 and least >= 0 and most <= 1:
        yield Finding(
            f"{told}; the image processor makes {low:.4g} to {high:.4g} of bytes",
            observed=pixels,
            expected=range_of,
            cause="the pictures were rescaled and not normalised",
            fix="processor(picture, return_tensors='pt') for what is trained on, too",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{told}; the image processor makes {low:.4g} to {high:.4g} of bytes", pixels, range_of
    )


def _range(pipeline: Pipeline) -> tuple[float, float, float]:
    """Return what the processor makes of 0 and of 255, and of what was divided by 255 before.

    Raises:
        Skip: there is no processor of images, or it leaves bytes as they are.
    """
    processor = getattr(pipeline.trainer, "processing_class", None)
    processor = getattr(processor, "image_processor", processor)
    if not hasattr(processor, "image_mean") and not hasattr(processor, "do_rescale"):
        raise Skip("the pipeline has no image processor that tells the range of pixels")
    rescales = bool(getattr(processor, "do_rescale", False))
    normalises = bool(getattr(processor, "do_normalize", False))
    if not rescales:
        raise Skip("the image processor does not rescale: what it is given is not known")
    factor = float(getattr(processor, "rescale_factor", None) or 1 / BYTE)
    means = _numbers(getattr(processor, "image_mean", None) if normalises else None, 0.0)
    stds = _numbers(getattr(processor, "image_std", None) if normalises else None, 1.0)
    ends = [(-m / s, (BYTE * factor - m) / s) for m, s in zip(means, stds, strict=False)]
    return (
        min(low for low, _ in ends),
        max(high for _, high in ends),
        BYTE * factor * factor / min(stds),
    )


def _numbers(values: Any, default: float) -> list[float]:
    if values is None:
        return [default]
    return [float(one) for one in values] if isinstance(values, list | tuple) else [float(values)]
