"""How looks at a model are taken and compared, of models that are made up; and batches in words."""

from __future__ import annotations

import math

import pytest
import torch

from fixtures.controls import all_controls
from fixtures.faults import healthy
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.batches.supervision import supervision
from trainsanity.measurements.model.origin import Origin
from trainsanity.measurements.model.probe_rows import Rows
from trainsanity.measurements.model.probes import (
    COLUMNS,
    ModelProbe,
    difference,
    relative,
    states_of,
)
from trainsanity.measurements.runs.saved import _base
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip

CONTROLS = {control.id: control for control in all_controls()}


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy())


def test_differences():
    one, other = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[3.0, 5.0], [0.0, 1.0]])
    assert difference([one], [other]) == 1
    assert difference([one, other], [one, 3 - other]) == 7
    assert relative([other], [one]) == pytest.approx(1 / 5)  # of the state's norm
    assert relative([one, one[:0]], [one, one[:0]]) == 0
    assert relative([one * 0], [one]) == 1
    for compare in (difference, relative):
        assert math.isnan(compare([one, one], [one * math.nan, one]))
        assert math.isnan(compare([one, one], [one, one * math.nan]))


class Says(torch.nn.Module):
    """Answers with what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None):
        if isinstance(self.output, Exception):
            raise self.output
        return self.output


class Output(dict):
    __getattr__ = dict.get


ROWS = Rows(
    [{"input_ids": torch.tensor(ids)} for ids in ([5, 6, 7], [8])], [{}, {}], {}, "right", [5, 6]
)


def asked(output, side="right", width=4):
    return ModelProbe(Pipeline(Says(output)), ROWS)(ROWS.stacked(width, side), side)


def test_logits_of_rows():
    logits = torch.arange(6.0).reshape(2, 3)
    look = asked(Output(logits=logits))
    assert [one.tolist() for one in look.logits] == logits.tolist()
    assert (look.states, look.width) == (None, 3)
    assert look.logits[0].dtype == torch.float64


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_tokens_are_those_of_the_rows_own(side):
    logits = torch.arange(8.0 * 3).reshape(2, 4, 3)
    look = asked(Output(logits=logits), side)
    begins = (1, 3) if side == "left" else (0, 0)
    expected = [logits[0, begins[0] : begins[0] + 3], logits[1, begins[1] : begins[1] + 1]]
    assert all(map(torch.equal, look.logits, [one.double() for one in expected]))
    assert all(map(torch.equal, look.states, look.logits))
    assert look.width == 3


def test_of_a_vocabulary_columns_in_even_steps_are_kept():
    logits = torch.arange(2.0 * 4 * 3 * COLUMNS).reshape(2, 4, 3 * COLUMNS)
    look = asked(Output(logits=logits))
    assert torch.equal(look.logits[0], logits[0, :3, ::3].double())
    assert look.width == 3 * COLUMNS


def test_states_are_those_of_the_body_where_it_shows_them():
    states = torch.arange(2.0 * 4 * 5).reshape(2, 4, 5)
    model = Says(Output(logits=torch.zeros(2, 3)))

    def body_first(*_):
        model.base_model(None)

    model.register_forward_pre_hook(body_first)
    for shown, seen in ((states, states), (states[:, :3], None), (states[:1], None)):
        model.base_model = Says(Output(last_hidden_state=shown))
        look = ModelProbe(Pipeline(model), ROWS)(ROWS.stacked(4, "right"), "right")
        if seen is None:
            assert look.states is None
        else:
            assert [one.tolist() for one in look.states] == [
                states[0, :3].tolist(),
                states[1, :1].tolist(),
            ]


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (Output(), "the model returns no logits"),
        (Output(logits=torch.zeros(3, 2)), r"logits of shape \(3, 2\)"),
        (Output(logits=torch.zeros(2, 3, 2)), r"logits of shape \(2, 3, 2\)"),
        (Output(logits=torch.zeros(2)), r"logits of shape \(2,\)"),
        (ValueError("two\nlines"), "does not take its rows padded anew: ValueError: two$"),
    ],
)
def test_a_model_that_answers_otherwise(output, says):
    with pytest.raises(Skip, match=says):
        asked(output)


@pytest.mark.parametrize(
    ("output", "seen"),
    [
        (Output(last_hidden_state=torch.zeros(1, 2, 3)), 1),
        ((torch.zeros(1, 2, 3), torch.ones(1)), 1),
        ((), 0),
        ((torch.zeros(1, 2),), 0),
        (Output(last_hidden_state=torch.zeros(2, 3)), 0),
        (torch.zeros(1, 2, 3), 0),
    ],
)
def test_states_under_the_head(output, seen):
    body = Says(output)
    with states_of(body) as states:
        body(None)
    assert [tuple(one.shape) for one in states] == [(1, 2, 3)] * seen
    assert not body._forward_hooks
    with states_of(None) as states:
        body(None)
    assert states == []


# --- what the loss supervises --------------------------------------------------------------------


def batch(labels, ids=((5, 6, 7), (8, 9, 151_643)), mask=((1, 1, 1), (1, 1, 0))):
    inputs = {"input_ids": torch.tensor(ids)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask)
    if labels is not None:
        inputs["labels"] = torch.tensor(labels)
    return Batch([MicroBatch(inputs, [{}, {}])])


def test_a_label_for_each_row(pipeline):
    seen = supervision(pipeline, batch([3, -100]))
    assert [row.label for row in seen.rows] == ["3 LABEL_3", "-100"]
    assert [row.counted for row in seen.rows] == [True, False]
    assert (seen.items, seen.counts) == (1, "rows")
    first, second = seen.rows
    assert [token.position for token in first.tokens] == [0, 1, 2]
    assert [token.id for token in second.tokens] == [8, 9, 151_643]
    assert [token.attended for token in second.tokens] == [True, True, False]
    assert all(token.label is None and not token.counted for token in first.tokens)
    assert [token.text for token in first.tokens] == [
        pipeline.tokenizer.decode([one]) for one in (5, 6, 7)
    ]
    assert all(token.attended for row in supervision(pipeline, batch([3, 4], mask=None)).rows
               for token in row.tokens)  # fmt: skip


def test_no_labels(pipeline):
    seen = supervision(pipeline, batch(None))
    assert [(row.label, row.counted) for row in seen.rows] == [("none", False)] * 2
    assert seen.items == 0


def test_several_labels_a_row():
    made = Pipeline.from_trainer(CONTROLS["multi_label"].build())
    seen = supervision(made, batch([[1.0, 0, 1], [0.0, 0, 0]]))
    assert [row.label for row in seen.rows] == ["0 LABEL_0, 2 LABEL_2", "none of them"]
    assert seen.items == 2


def test_a_language_model_counts_no_first_label():
    made = Pipeline.from_trainer(CONTROLS["language_model"].build())
    seen = supervision(made, batch([[5, 6, -100], [8, -100, 9]]))
    counted = [[token.counted for token in row.tokens] for row in seen.rows]
    assert counted == [[False, True, False], [False, False, True]]
    assert (seen.items, seen.counts) == (2, "tokens")
    words = made.tokenizer.decode
    assert [token.label_text for token in seen.rows[0].tokens] == [words([5]), words([6]), ""]
    # Labels of another length do not stand beside these tokens.
    other = supervision(made, batch([[5, 6], [8, 9]]))
    assert all(token.label is None for row in other.rows for token in row.tokens)


def test_labels_of_tokens_have_names():
    made = Pipeline.from_trainer(CONTROLS["token_labels"].build())
    seen = supervision(made, batch([[0, 1, -100], [2, -100, -100]]))
    assert [token.label_text for token in seen.rows[0].tokens] == ["LABEL_0", "LABEL_1", ""]
    assert [token.counted for token in seen.rows[0].tokens] == [True, True, False]
    assert seen.items == 3


# --- what adapters are loaded onto ---------------------------------------------------------------


def test_the_base_of_adapters_is_that_from_before_training():
    made = CONTROLS["lora"].build()
    head = made.model.get_base_model().score
    head.original_module.weight.data.fill_(1.0)
    head.modules_to_save["default"].weight.data.fill_(2.0)
    assert bool((_base(made.model, Origin(None, [], [])).score.weight == 1).all())
    assert bool((head.modules_to_save["default"].weight == 2).all())
    drawn = _base(made.model, Origin(None, ["base_model.model.score.weight"], [])).score.weight
    assert len(drawn.unique()) > 10
    assert _base(healthy().model, Origin(None, [], [])) is None
