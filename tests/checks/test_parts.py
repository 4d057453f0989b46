"""What checks are made of, asked with values that are made up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer

from trainsanity.checks.collator.mask_is_exact import _wrong_mask
from trainsanity.checks.collator.model_takes_batch import Forward, _may_want_more, _wrong_labels
from trainsanity.checks.model.right_token_pooled import right_token_pooled
from trainsanity.checks.schedule.learning_rate_follows import _why
from trainsanity.maths.alignment import Placement
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.rope import _scaling_error
from trainsanity.measurements.step.schedule import Schedule
from trainsanity.objectives.base import Objective
from trainsanity.objectives.classification import SingleLabel


@pytest.mark.parametrize("width", [11, 12, 13])
def test_a_wrong_mask_is_shown_as_long_as_it_is_short(width):
    rows, wrong = [{"input_ids": [5, 6]}], [1] * width
    collating = _collating(lambda attention_mask: None, width)
    said = _wrong_mask(collating, rows, {"attention_mask": torch.tensor([wrong])})
    told = f"row 0 has 2 tokens in {width} positions and a mask with {width} ones"
    assert said == (f"{told}: {wrong}" if width <= 12 else told)
    right = [1, 1, *[0] * (width - 2)]
    made = {"attention_mask": torch.tensor([right])}
    assert _wrong_mask(collating, rows, made) is None
    assert _wrong_mask(collating, rows, {}) == "the batch has none, and row 0 has padding"


def _collating(forward, width, task="single_label_classification"):
    objective = SimpleNamespace(name=task)
    model = SimpleNamespace(forward=forward)
    return SimpleNamespace(
        pipeline=SimpleNamespace(
            model=model, config=None, session=SimpleNamespace(objective=objective)
        ),
        placed=lambda rows, made: [Placement(0, len(row["input_ids"]), width) for row in rows],
    )


def test_a_mask_is_missed_where_there_is_padding_and_the_model_takes_one():
    def said(row, width, forward=lambda **inputs: None):
        return _wrong_mask(_collating(forward, width), [row], {})

    told, row = "the batch has none, and row 0 has padding", {"input_ids": [5, 6]}
    assert said(row, 3) == told
    assert said(row, 2) is None
    assert said({**row, "attention_mask": [1, 1]}, 2) is None
    assert said({**row, "attention_mask": [1, 0]}, 2) == told
    assert said(row, 3, lambda input_ids: None) is None
    # What a language model reads stands before the padding behind it.
    causal = _collating(lambda **inputs: None, 3, "causal_lm")
    assert _wrong_mask(causal, [row], {}) is None


class OwnLoss(Trainer):
    def compute_loss(self, *args, **kwargs):
        raise NotImplementedError


@pytest.mark.parametrize("is_open", [False, True])
def test_who_may_want_keys_that_forward_does_not_name(is_open):
    def more(trainer):
        pipeline = SimpleNamespace(trainer=trainer)
        return _may_want_more(pipeline, Forward(frozenset({"input_ids"}), is_open))

    assert more(None) is True  # a loop gives the model what it likes of the batch
    assert more(Trainer.__new__(Trainer)) is is_open
    assert more(OwnLoss.__new__(OwnLoss)) is True


def test_a_batch_without_labels_is_told_what_it_has():
    def said(made, label_names=None, objective=None, takes=("input_ids", "labels")):
        trainer = Trainer.__new__(Trainer)
        trainer.label_names = label_names
        session = SimpleNamespace(objective=objective or SingleLabel())
        pipeline = SimpleNamespace(session=session, trainer=trainer)
        return _wrong_labels(pipeline, made, Forward(frozenset(takes), open=False))

    inputs = {"input_ids": torch.ones(2, 3), "attention_mask": torch.ones(2, 3)}
    assert said(inputs) == "the batch has none, only inputs"
    assert said({**inputs, "target": 1, "class": 2}) == "the batch has none, only class, target"
    assert said({**inputs, "target": 1}, ["target"]) is None
    assert said({**inputs, "target": 1}, ["other"]) == "the batch has none, only target"
    # A model whose forward takes none: known heads take them, also where PEFT hides it.
    assert said(inputs, []) == "the batch has none, only inputs"
    assert said(inputs, [], Objective()) is None
    # A forward of the user's own that has no argument for them makes its loss without.
    assert said(inputs, [], takes=("input_ids",)) is None
    # What no objective is known of may make its loss of the inputs alone.
    assert said(inputs, ["labels"], Objective()) is None


def test_one_rate_is_enough_to_tell_another_peak():
    none = Schedule(10, 0, {})
    cause, _ = _why([2e-5], [1e-5], {}, none, only_used=False)
    assert cause == (
        "every rate is 2 x the optimizer's own times the schedule of the arguments: something "
        "multiplies it once more"
    )
    cause, _ = _why([2e-5, 4e-5], [1e-5, 1e-5], {}, none, only_used=False)
    assert cause.startswith("the scheduler was built for other numbers of")
    cause, _ = _why([0.0], [0.0], {3: 3e-5}, Schedule(10, 0, {3: 1e-5}), only_used=False)
    assert cause.startswith("every rate is 3 x the optimizer's own")
    cause, _ = _why([1e-5], [0.0], {}, none, only_used=False)
    assert cause.startswith("the scheduler was built for other numbers of")
    # A curve that is right was stepped through at another pace; without one both are possible.
    paced = "the scheduler is stepped more or less than once per optimizer step"
    cause, _ = _why([2e-5], [1e-5], {3: 1e-5}, Schedule(10, 0, {3: 1e-5}), only_used=True)
    assert cause == paced
    cause, _ = _why([2e-5], [1e-5], {}, none, only_used=True)
    assert cause == f"{paced}, or it has another curve or peak than the arguments give"


def test_a_token_before_the_last_ends_the_text_and_one_behind_it_is_padding():
    def said(column):
        rows = [{"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1]}]
        micro = SimpleNamespace(rows=rows, placements=[Placement(1, 3, 6)])
        micro.inputs, micro.of_tokens, micro.made = {"input_ids": None}, True, True
        one = SimpleNamespace(index=[column], ambiguous=False)
        batch = Batch([micro])
        return list(right_token_pooled(SimpleNamespace(passes=[one]), batch))

    (seen,) = said(3)
    assert seen.message == "1 of 1 rows are read at their last token"
    before, behind = said(2)[0], said(4)[0]
    assert (before.observed, before.expected) == (2, 3)
    assert before.cause.startswith("the text ends with config.pad_token_id")
    assert behind.cause.startswith("config.pad_token_id is not what the collator pads with")


def test_a_rotary_module_that_scales_otherwise():
    module = SimpleNamespace(attention_scaling=1.5, full_attention_scaling=3.0)
    assert _scaling_error(module, None, 1.0) == 0.5
    assert _scaling_error(module, None, 1.5) == 0
    assert _scaling_error(module, "full", 1.5) == 1.0
    assert _scaling_error(module, "sliding", 1.5) == 0
    assert _scaling_error(SimpleNamespace(), None, 2.0) == 0
