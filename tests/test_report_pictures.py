"""What the pictures show is what the checks saw; none takes a measurement of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from fixtures.controls import all_controls
from fixtures.faults import healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.pipeline import Pipeline
from trainsanity.report import pictures as module
from trainsanity.report.pictures import Picture, binned, layer_of, pictures_of

NAMES = ["lengths", "tokens", "trained", "losses", "slope", "movement", "learning_rate"]


def judged(trainer: Any, *select: str) -> tuple[Pipeline, Report, dict[str, Picture]]:
    pipeline = Pipeline.from_trainer(trainer)
    report = run(pipeline, registry().select(select))
    before = dict(Session.of(pipeline).measurements.seconds)
    shown = pictures_of(pipeline)
    assert Session.of(pipeline).measurements.seconds == before, "a picture took a measurement"
    assert [picture.name for picture in shown] == NAMES
    return pipeline, report, {picture.name: picture for picture in shown}


@pytest.fixture(scope="module")
def seen() -> tuple[Pipeline, Report, dict[str, Picture]]:
    return judged(healthy())


def observed(report: Report, code: str) -> Any:
    return next(r for r in report.results if r.check.code == code).observed


def test_all_are_there_in_json_values(seen: tuple[Pipeline, Report, dict[str, Picture]]) -> None:
    shown = dict(seen[2])
    # Every row has a label of its own: there are no shares of tokens to show.
    assert shown.pop("trained").reason
    for picture in shown.values():
        assert not picture.reason
        assert picture.sentence
        assert picture.columns
        assert picture.rows
        json.dumps([picture.rows, picture.values], allow_nan=False)


def test_they_show_the_numbers_of_the_checks(
    seen: tuple[Pipeline, Report, dict[str, Picture]],
) -> None:
    pipeline, report, shown = seen
    assert shown["losses"].values["mean"] == pytest.approx(observed(report, "TS501"))
    assert shown["slope"].values["slope"] == pytest.approx(
        observed(report, "TS601")["slope"], abs=1e-5
    )
    moved = observed(report, "TS702")["float32"]["moved"]
    assert f"changes {moved:.2%} of" in shown["movement"].sentence
    padding = Session.of(pipeline).measurements.taken("padding")
    assert f"{padding.waste:.1%} of the positions" in shown["lengths"].sentence
    schedule = Session.of(pipeline).measurements.taken("schedule")
    assert max(shown["learning_rate"].values["rates"]) == schedule.peak
    assert shown["learning_rate"].values["stands"] == [1, schedule.curve[0]]


def test_tokens_show_both_ends_and_where_padding_begins(
    seen: tuple[Pipeline, Report, dict[str, Picture]],
) -> None:
    _, _, shown = seen
    assert shown["tokens"].columns == ("position", "id", "token", "mask")
    table = shown["tokens"].values["tables"][0]
    masks = [row["mask"] for row in table["rows"] if "mask" in row]
    assert masks == sorted(masks, reverse=True)
    assert {0, 1} == set(masks)
    assert any(row.get("token") == "<|endoftext|>" for row in table["rows"])
    assert sum("left_out" in row for row in table["rows"]) >= 1


def test_a_language_model_shows_what_the_loss_supervises() -> None:
    control = next(c for c in all_controls() if c.id == "language_model")
    _, _, shown = judged(control.build(), "collator.mask_is_exact")
    picture = shown["tokens"]
    assert picture.columns[-1] == "label"
    first = picture.values["tables"][0]["rows"][:2]
    # Nothing predicts the first token.
    assert first[0]["label"] == ""
    assert first[1]["label"] == first[1]["token"]


def test_what_was_not_measured_says_so() -> None:
    _, _, shown = judged(healthy(), "collator.mask_is_exact")
    assert shown["tokens"].values
    for name in ("losses", "slope", "movement"):
        assert shown[name].reason.endswith("was not measured: no check that ran asked for it")
        assert not shown[name].values


def test_what_was_skipped_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = healthy()
    trainer.lr_scheduler = object()  # the user built one
    _, _, shown = judged(trainer, "schedule.peak_is_reached")
    assert shown["learning_rate"].reason.startswith("the scheduler")


def test_a_picture_that_cannot_be_made_loses_no_report(
    seen: tuple[Pipeline, Report, dict[str, Picture]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(pipeline: Pipeline) -> Any:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr(module, "_collectors", [("loss", "Broken", broken)])
    (picture,) = pictures_of(seen[0])
    assert picture.reason == "ZeroDivisionError: by design"


@pytest.mark.parametrize(
    ("histogram", "edges", "counts"),
    [
        ([0, 0, 3], [2, 3], [3]),
        ([0, 1, 2], [1, 2, 3], [1, 2]),
        ([0] * 10 + [1] * 60, list(range(10, 71, 2)), [2] * 30),
        ([0] * 10 + [1] * 61, list(range(10, 74, 3)), [3] * 20 + [1]),
    ],
)
def test_bins(histogram: Sequence[int], edges: list[int], counts: list[int]) -> None:
    import numpy

    assert binned(numpy.array(histogram)) == (edges, counts)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.11.mlp.down_proj.weight", "model.layers.11"),
        ("model.embed_tokens.weight", "model.embed_tokens"),
        ("base_model.model.layers.0.q.lora_A.default.weight", "base_model.model.layers.0"),
        ("score.weight", "score"),
        ("weight", "weight"),
    ],
)
def test_layers(name: str, layer: str) -> None:
    assert layer_of(name) == layer
