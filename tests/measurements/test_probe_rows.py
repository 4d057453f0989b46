"""The rows that probes ask about, taken out of batches that are made up."""

from __future__ import annotations

import pytest
import torch

from fixtures.faults import healthy
from trainsanity.measurements.batches.batch import MicroBatch
from trainsanity.measurements.model.probe_rows import LENGTHS, probe_rows
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip

PAD = 151_643


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy())


def padded(rows, width, side="right", **more):
    """A micro-batch of these rows."""
    fill = [[0] * (width - len(row)) for row in rows]
    pad = [[PAD] * len(one) for one in fill]
    ids = [[*p, *row] if side == "left" else [*row, *p] for row, p in zip(rows, pad, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [[*f, *one] if side == "left" else [*one, *f] for one, f in zip(ones, fill, strict=True)]
    made = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), **more}
    return MicroBatch(made, [{} for _ in rows])


def row(n, begin=100):
    return list(range(begin, begin + n))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_longest_a_middle_and_the_shortest_row(pipeline, side):
    batch = [padded([row(5), row(2)], 8, side), padded([row(7), row(3), row(4)], 7, side)]
    rows = probe_rows(pipeline, batch)
    assert rows.lengths == [7, 4, 2]
    assert [one["input_ids"].tolist() for one in rows.tokens] == [row(7), row(4), row(2)]
    assert (rows.side, rows.longest) == (side, 7)
    assert rows.fill == {"input_ids": PAD, "attention_mask": 0}
    assert rows.texts == row(7)


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_padding_the_tokenizer_tells_the_side(pipeline, side):
    tokenizer = pipeline.tokenizer
    tokenizer.padding_side, before = side, tokenizer.padding_side
    try:
        assert probe_rows(pipeline, [padded([row(4)], 4)]).side == side
        assert probe_rows(pipeline, [padded([row(3)], 4, "right")]).side == "right"
        assert probe_rows(pipeline, [padded([row(3)], 4, "left")]).side == "left"
    finally:
        tokenizer.padding_side = before
    assert probe_rows(pipeline, [padded([row(4)], 4)]).fill == {"input_ids": PAD}


def test_the_middle_is_cut_out_of_long_rows(pipeline):
    rows = probe_rows(pipeline, [padded([row(100), row(90), row(80), row(70)], 100)])
    assert rows.lengths == list(LENGTHS)
    for one, limit, n in zip(rows.tokens, LENGTHS, (100, 80, 70), strict=True):
        before = (limit + 1) // 2
        assert one["input_ids"].tolist() == row(n)[:before] + row(n)[n - limit // 2 :]
    exact = probe_rows(pipeline, [padded([row(LENGTHS[0])], LENGTHS[0])])
    assert exact.tokens[0]["input_ids"].tolist() == row(LENGTHS[0])


def test_what_goes_by_row_is_kept_whole(pipeline):
    more = {
        "token_type_ids": torch.tensor([[1, 1, 5], [2, 5, 5], [3, 3, 3]]),
        "speaker": torch.tensor([7, 8, 9]),
        "image": torch.arange(12.0).reshape(3, 2, 2),
    }
    # As many rows as columns: what goes by row has the length of a row all the same.
    rows = probe_rows(pipeline, [padded([row(2), row(1), row(3)], 3, **more)])
    assert [one["token_type_ids"].tolist() for one in rows.tokens] == [[3, 3, 3], [1, 1], [2]]
    assert rows.fill["token_type_ids"] == 5
    assert [int(one["speaker"]) for one in rows.whole] == [9, 7, 8]
    assert [one["image"].shape for one in rows.whole] == [(2, 2)] * 3
    made = rows.only(2, 0).stacked(4, "left")
    assert made["input_ids"].tolist() == [[PAD] * 3 + row(1), [PAD, *row(3)]]
    assert made["token_type_ids"].tolist() == [[5, 5, 5, 2], [5, 3, 3, 3]]
    assert made["attention_mask"].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert made["speaker"].tolist() == [8, 9]
    assert torch.equal(made["image"], more["image"][[1, 2]])


@pytest.mark.parametrize("width", [2, 4])
def test_what_has_another_width_goes_by_row(pipeline, width):
    rows = probe_rows(pipeline, [padded([row(3), row(2)], 3, spans=torch.ones(2, width))])
    assert ["spans" in one for one in rows.tokens] == [False, False]
    assert [tuple(one["spans"].shape) for one in rows.whole] == [(width,), (width,)]


def test_padding_is_filled_with_text_and_tokens_are_changed(pipeline):
    rows = probe_rows(pipeline, [padded([row(3), row(2)], 3)])
    assert rows.stacked(4, "right", refill=True)["input_ids"].tolist() == [
        [100, 101, 102, 100],
        [100, 101, 100, 100],
    ]
    assert rows.another(100) == 101
    assert rows.another(PAD) == 100
    changed = rows.with_last_changed()
    assert [one["input_ids"].tolist() for one in changed.tokens] == [[100, 101, 100], [100, 100]]
    each = rows.with_each_changed()
    assert [one["input_ids"].tolist() for one in each.tokens] == [
        [101, 101, 102],
        [100, 100, 102],
        [100, 101, 100],
    ]
    assert len(each.whole) == 3
    alone = probe_rows(pipeline, [padded([[100, 100]], 3)])
    with pytest.raises(Skip, match="all tokens of the rows are alike"):
        alone.another(100)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ([[1, 0, 1, 1]], "has holes"),
        ([[0, 1, 0, 1]], "has holes"),
        ([[0, 0, 0, 0]], "has holes"),
        ([[1, 1, 0]], "no attention_mask that tells"),
    ],
)
def test_rows_that_lie_in_pieces(pipeline, mask, says):
    made = {"input_ids": torch.tensor([row(4)]), "attention_mask": torch.tensor(mask)}
    with pytest.raises(Skip, match=says):
        probe_rows(pipeline, [MicroBatch(made, [{}])])


def test_padding_on_both_sides_lies_in_one_piece(pipeline):
    made = {
        "input_ids": torch.tensor([[PAD, 5, 6, PAD]]),
        "attention_mask": torch.tensor([[0, 1, 1, 0]]),
    }
    rows = probe_rows(pipeline, [MicroBatch(made, [{}])])
    assert (rows.tokens[0]["input_ids"].tolist(), rows.side) == ([5, 6], "left")


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor([1, 2]), "words"])
def test_an_input_that_does_not_go_by_row(pipeline, value):
    with pytest.raises(Skip, match="the batch has 'extra', which does not go by row"):
        probe_rows(pipeline, [padded([row(2)], 3, extra=value)])


def test_without_a_mask_a_row_is_attended_to_as_a_whole(pipeline):
    rows = probe_rows(pipeline, [MicroBatch({"input_ids": torch.tensor([row(4)])}, [{}])])
    (one,) = rows.tokens
    assert one["input_ids"].tolist() == row(4)
    assert one["attention_mask"].tolist() == [1] * 4


def test_documents_whose_positions_restart_are_rows(pipeline):
    made = {
        "input_ids": torch.tensor([row(9)]),
        "position_ids": torch.tensor([[0, 1, 0, 1, 2, 3, 0, 1, 2]]),
    }
    rows = probe_rows(pipeline, [MicroBatch(made, [{}])])
    assert [one["input_ids"].tolist() for one in rows.tokens] == [
        row(4, 102), row(3, 106), row(2)]  # fmt: skip
    assert all("position_ids" not in one for one in rows.tokens)


def test_a_model_that_takes_no_mask_is_not_asked(pipeline, monkeypatch):
    monkeypatch.setattr(type(pipeline.model), "forward", lambda self, input_ids: None)
    with pytest.raises(Skip, match="the model takes none"):
        probe_rows(pipeline, [MicroBatch({"input_ids": torch.tensor([row(4)])}, [{}])])


def test_targets_of_unequal_widths_are_padded(pipeline):
    micros = [padded([row(4)], 5, decoder_input_ids=torch.tensor([row(n)])) for n in (3, 2)]
    rows = probe_rows(pipeline, micros)
    made = rows.stacked(6, "right")
    assert made["decoder_input_ids"].tolist() == [row(3), [*row(2), PAD]]
    assert rows.targets((2, 3)) == [3, 2]
    assert rows.targets((2, 6)) == []


def test_choices_are_asked_about_alone(pipeline):
    ids = torch.tensor([[row(3), row(3, 50)]])
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    micro = MicroBatch.of(made, [{"input_ids": ids[0].tolist(), "label": 0}])
    rows = probe_rows(pipeline, [micro])
    assert rows.choices
    assert rows.asked(rows.stacked(3, "right"))["input_ids"].shape == (2, 1, 3)
