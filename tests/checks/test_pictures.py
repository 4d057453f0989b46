"""Checks of pictures, maps, boxes and tags, on a few numbers each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from trainsanity.checks.collator.channels_are_planes import channels_are_planes
from trainsanity.checks.dataset.evaluation_stays import evaluation_stays
from trainsanity.checks.dataset.maps_hold_their_classes import maps_hold_their_classes
from trainsanity.checks.dataset.maps_turn_with_pictures import maps_turn_with_pictures
from trainsanity.checks.dataset.tags_follow_words import Tagged, _missed
from trainsanity.checks.loss.boxes_are_read_as_given import boxes_are_read_as_given
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.data.label_maps import LabelMaps
from trainsanity.measurements.data.reread import Reread
from trainsanity.measurements.model.unregistered import _parameters
from trainsanity.measurements.step.loss_calls import Corners
from trainsanity.types import Finding, Measured, Severity, Skip


def findings(items: Any) -> list[Finding]:
    found = list(items)
    assert sum(isinstance(one, Measured) for one in found) == 1
    return [one for one in found if isinstance(one, Finding)]


def coloured(count: int = 8, side: int = 16) -> torch.Tensor:
    """Noisy pictures ``[B, H, W, 3]`` of one colour each."""
    draw = torch.Generator().manual_seed(0)
    colours = torch.rand(count, 1, 1, 3, generator=draw)
    return colours + 0.05 * torch.randn(count, side, side, 3, generator=draw)


def of_pixels(pixels: torch.Tensor) -> Batch:
    return Batch([MicroBatch({"pixel_values": pixels}, [])])


def test_channels() -> None:
    pictures = coloured()
    assert findings(channels_are_planes(of_pixels(pictures.permute(0, 3, 1, 2)))) == []
    (one,) = findings(channels_are_planes(of_pixels(pictures.reshape(8, 3, 16, 16))))
    assert one.severity == Severity.FAILURE


def test_channels_of_noise_and_of_grey() -> None:
    noise = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert findings(channels_are_planes(of_pixels(noise))) == []
    grey = coloured().mean(-1, keepdim=True).expand(-1, -1, -1, 3)
    assert findings(channels_are_planes(of_pixels(grey.permute(0, 3, 1, 2)))) == []
    assert findings(channels_are_planes(of_pixels(torch.zeros(8, 3, 16, 16) + 1e-3 * noise))) == []


def test_one_picture_that_says_otherwise_is_enough() -> None:
    pictures = coloured()
    mixed = pictures.reshape(8, 3, 16, 16).clone()
    mixed[0] = pictures[0].permute(2, 0, 1)
    assert findings(channels_are_planes(of_pixels(mixed))) == []
    with pytest.raises(Skip):
        findings(channels_are_planes(of_pixels(mixed[:3])))


def boxes(given: torch.Tensor, read: torch.Tensor) -> list[Finding]:
    half = read[:, 2:] / 2
    corners = Corners("model.py:1", torch.cat([read[:, :2] - half, read[:, :2] + half], -1))
    micro = SimpleNamespace(inputs={"labels": [{"boxes": given}]})
    recording: Any = SimpleNamespace(corners=[corners], first=SimpleNamespace(micro_steps=[micro]))
    return findings(boxes_are_read_as_given(SimpleNamespace(), recording))


def test_boxes() -> None:
    corners = torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.3, 0.1, 0.8, 0.6], [0, 0, 1, 1.0],
                            [0.5, 0.5, 0.9, 0.8]])  # fmt: skip
    low, high = corners[:, :2], corners[:, 2:]
    centres = torch.cat([(low + high) / 2, high - low], -1)
    assert boxes(centres, centres) == []
    assert boxes(640 * centres, 640 * centres) == []
    (one,) = boxes(corners, corners)
    assert "two corners" in str(one.cause)


def test_boxes_that_are_not_of_the_batch() -> None:
    anchors = torch.tensor([[0.0, 0.0, 0.9, 0.9]] * 4)
    with pytest.raises(Skip):
        boxes(anchors / 2 + 0.2, anchors)


def maps(each: Any) -> list[Finding]:
    pipeline: Any = SimpleNamespace(trainer=None, config=SimpleNamespace(num_labels=4))
    found = LabelMaps([torch.as_tensor(one.copy()).long() for one in each])
    return findings(maps_hold_their_classes(pipeline, found))


def disc(side: int = 40) -> numpy.ndarray:
    y, x = numpy.mgrid[:side, :side] - side / 2
    return numpy.hypot(y, x)


def test_blends_of_classes() -> None:
    sharp = 3 * (disc() < 12).astype(int)
    blended = numpy.digitize(disc(), [10.5, 11.5, 12.5])[::-1]
    assert maps([sharp, sharp.T]) == []
    (one,) = maps([blended, blended.T])
    assert one.severity == Severity.FAILURE
    (one,) = maps([numpy.digitize(disc(), [10.5, 11.5])] * 2)
    assert one.severity == Severity.WARNING  # a border may have been drawn


def test_levels_of_a_depth_map_are_no_blends() -> None:
    assert maps([disc().astype(int)] * 2) == []


def test_one_class_beside_what_is_ignored() -> None:
    sharp = (disc() < 12).astype(int)
    (one,) = maps([(sharp - 1) % 256] * 2)
    assert one.severity == Severity.FAILURE
    assert maps([sharp * 0] * 2) == []
    assert maps([numpy.where(disc() < 5, 255, sharp)] * 2) == []


def test_maps_turn_with_pictures() -> None:
    picture = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    where = (picture[0] > 0.5).long()
    plain = {"pixel_values": picture, "labels": where}
    both = {"pixel_values": picture.flip(-1), "labels": where.flip(-1)}
    one = {"pixel_values": picture.flip(-1), "labels": where}
    assert findings(maps_turn_with_pictures(Reread([[plain, both, plain]]))) == []
    (found,) = findings(maps_turn_with_pictures(Reread([[plain, one]])))
    assert found.observed == 1
    symmetric = {"labels": torch.ones_like(where)}
    assert findings(maps_turn_with_pictures(Reread([[plain | symmetric, one | symmetric]]))) == []


def test_rows_of_the_evaluation_data() -> None:
    row = {"pixel_values": torch.ones(2), "labels": torch.tensor(1)}
    assert findings(evaluation_stays(Reread([], {"eval": [[row, dict(row)]]}))) == []
    moved = row | {"pixel_values": torch.zeros(2)}
    (one,) = findings(evaluation_stays(Reread([], {"eval": [[row, moved]]})))
    assert one.severity == Severity.FAILURE
    row["noise"] = torch.ones(2)
    for other in ({"labels": torch.tensor(2)}, {"noise": torch.zeros(2)}):
        (one,) = findings(evaluation_stays(Reread([], {"eval": [[row, row | other]]})))
        assert one.severity == Severity.WARNING


def test_labels_are_a_function_of_their_words_tag() -> None:
    names = {"O": 0, "B": 1, "I": 2}
    words = [None, 0, 1, 1, 2, 3, None]
    some = [["O", "B", "O", "I"], ["B", "O", "I", "O"]]
    rows = [
        Tagged(tags, [-100, *(names[tags[k]] for k in (0, 1, 1, 2, 3)), -100], words)
        for tags in some
    ]
    assert _missed(rows, lambda one: one.by_word) == [0, 0]
    assert any(_missed(rows, lambda one: one.by_token(0)))
    laid = [Tagged(tags, [*(names[tag] for tag in tags), *[-100] * 3], words) for tags in some]
    assert any(_missed(laid, lambda one: one.by_word))
    assert _missed(laid, lambda one: one.by_token(0)) == [0, 0]


def test_parameters_are_found_in_containers() -> None:
    layer = torch.nn.Linear(2, 2)
    held = {"a": [layer, (torch.nn.Parameter(torch.ones(1)),)], "b": "text", "c": torch.ones(1)}
    names = [name for name, _ in _parameters(held, "held", 3)]
    assert names == ["held['a'][0].weight", "held['a'][0].bias", "held['a'][1][0]"]
