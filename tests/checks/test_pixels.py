from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainsanity.checks.collator.pixels_are_normalised import pixels_are_normalised
from trainsanity.checks.dataset.eval_pixels_are_alike import eval_pixels_are_alike
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.data.eval_pixels import Pixels, _colours
from trainsanity.types import Finding, Measured, Skip

USUAL = {
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def findings(low: float, high: float, name: str = "pixel_values", **changes: Any) -> list[Finding]:
    processor = SimpleNamespace(**{**USUAL, **changes})
    pixels = torch.linspace(low, high, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    pipeline: Any = SimpleNamespace(trainer=SimpleNamespace(processing_class=processor))
    found = list(pixels_are_normalised(pipeline, Batch([MicroBatch({name: pixels}, [])])))
    assert sum(isinstance(one, Measured) for one in found) == 1
    return [one for one in found if isinstance(one, Finding)]


@pytest.mark.parametrize("ends", [(-1, 1), (-0.2, 0.3), (-1.8, 2), (-1, -0.98), (0.1, 1.2)])
def test_what_a_processor_makes(ends: tuple[float, float]) -> None:
    assert findings(*ends) == []


def test_bytes() -> None:
    (one,) = findings(0, 255)
    assert one.factor == pytest.approx(127.5)
    assert one.severity == "failure"


def test_what_is_divided_by_255_twice() -> None:
    (one,) = findings(-1, -1 + 1 / 127.5)
    assert "less than one of 255 levels" in one.headline
    assert findings(-1, -1 + 1.1 / 127.5) == []


def test_rescaled_and_not_normalised() -> None:
    (one,) = findings(0, 1)
    assert one.severity == "warning"
    assert findings(0, 1, do_normalize=False) == []


def test_the_widest_channel_counts() -> None:
    ends = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    assert findings(-2.1179, 2.64, **ends) == []
    assert len(findings(-5, 5, **ends)) == 1


def test_where_nothing_is_known() -> None:
    with pytest.raises(Skip, match="does not rescale"):
        findings(0, 1, do_rescale=False)
    with pytest.raises(Skip, match="the batch has no pixels"):
        findings(0, 1, name="x")
    pipeline: Any = SimpleNamespace(trainer=SimpleNamespace(processing_class=None))
    with pytest.raises(Skip, match="no image processor"):
        list(pixels_are_normalised(pipeline, Batch([])))


def coloured(*colours: tuple[float, float]) -> list[str]:
    """What is said of evaluation pictures with these means, beside red ones in training."""
    train = Pixels("train_dataset", -1, 1, 0.5, ((0.4, 0.01), (0.0, 0.01), (-0.4, 0.01)))
    held = Pixels("eval_dataset", -1, 1, 0.5, colours)
    return [
        one.headline for one in eval_pixels_are_alike([train, held]) if isinstance(one, Finding)
    ]


def test_red_and_blue_are_exchanged() -> None:
    said = "red and blue of eval_dataset are blue and red of the training pictures"
    assert coloured((-0.39, 0.01), (0.01, 0.01), (0.41, 0.01)) == [said]
    assert coloured((0.4, 0.01), (0.0, 0.01), (-0.4, 0.01)) == []
    # Other pictures, and too few to tell.
    assert coloured((-0.4, 0.01), (0.2, 0.01), (0.4, 0.01)) == []
    assert coloured((-0.4, 0.2), (0.0, 0.2), (0.4, 0.2)) == []
    assert coloured() == []


def test_the_mean_of_each_channel_and_its_error() -> None:
    pictures = torch.stack([torch.full((3, 2, 2), float(k)) for k in range(4)])
    for laid_out in (pictures, pictures.movedim(1, -1)):
        for mean, error in _colours(laid_out):
            assert mean == 1.5
            assert error == pytest.approx((5 / 3) ** 0.5 / 2)
    assert _colours(pictures[:, :1]) == ()
