"""Which positions of a decoder nothing is to be learnt from, by its labels."""

from __future__ import annotations

import pytest
import torch

from fixtures.controls.decoders import answers_by_a_decoder
from fixtures.controls.tasks import FEW
from fixtures.faults import healthy, subclassed
from fixtures.faults.loss_targets import answers_padded_when_tokenized
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.step.pull import at_padding
from trainsanity.measurements.step.steps import MicroStep
from trainsanity.pipeline import Pipeline

PAD, END, LANGUAGE = 0, 1, 9


def hidden(row: list[int], ends: tuple[int, ...] = (END,), pad: int | None = PAD) -> list[int]:
    micro = MicroStep(inputs={"labels": torch.tensor([row])})
    norms = torch.ones(1, len(row))
    found = at_padding(micro, norms, two_sided=True, ends=frozenset(ends), pad=pad)
    assert found is not None
    return found.places[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([5, 6, END, -100, -100], [3, 4]),
        ([5, 6, END, PAD, PAD], [3, 4]),
        ([5, 6, END, PAD, -100], [3, 4]),
        ([5, END, LANGUAGE, PAD, PAD], [3, 4]),
        ([5, PAD, 6, PAD, END], []),  # not behind the end
        ([5, 6, 7, PAD, PAD], []),  # nothing ended: the id may be a word here
    ],
)
def test_a_run_of_padding_behind_the_end_is_no_target(row, expected):
    assert hidden(row) == expected


def test_a_padding_that_ends_texts_is_one_end():
    assert hidden([5, 6, END, END, END], pad=END) == [3, 4]
    assert hidden([5, 6, END, -100, -100], pad=END) == [3, 4]
    assert hidden([5, 6, 7, 8, END], pad=END) == []


def test_without_a_padding_or_an_end_labels_alone_tell():
    assert hidden([5, END, PAD, PAD, -100], pad=None) == [4]
    assert hidden([5, END, PAD, PAD, -100], ends=()) == [4]


def test_a_loss_of_ones_own_that_ignores_the_padding_is_healthy():
    from torch.nn import functional

    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs["labels"]
        outputs = model(**inputs)
        pad = self.processing_class.pad_token_id
        counted = labels.masked_fill(labels == pad, -100).flatten()
        loss = functional.cross_entropy(outputs.logits.flatten(0, 1), counted)
        return (loss, outputs) if return_outputs else loss

    trainer = answers_padded_when_tokenized(answers_by_a_decoder(healthy(**FEW)))
    pipeline = Pipeline.from_trainer(subclassed(trainer, compute_loss=compute_loss))
    checks = registry().select(["loss.padding_is_not_predicted"])
    (result,) = (
        one for one in run(pipeline, checks).results if one.check.name.endswith("not_predicted")
    )
    assert str(result.status) == "pass"
    assert "4 positions" in result.message
