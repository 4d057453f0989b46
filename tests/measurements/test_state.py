"""Nothing is touched: training after the checks equals training without them."""

from __future__ import annotations

import copy

import pytest
import torch

from fixtures.controls import OF_SEVERAL_PROCESSES
from fixtures.faults import healthy
from trainsanity.measurements.state import fingerprint, preserved
from trainsanity.pipeline import Pipeline
from trainsanity.registry import registry
from trainsanity.runner import run
from trainsanity.types import RAN


def train(trainer, steps=2):
    trainer.args.max_steps = steps
    trainer.train()
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    timed = ("train_runtime", "train_samples_per_second", "train_steps_per_second")
    log = [{k: v for k, v in row.items() if k not in timed} for row in trainer.state.log_history]
    return weights, log


def test_training_after_the_checks_equals_training_without_them():
    judged, untouched = healthy(), healthy()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    report = run(Pipeline.from_trainer(judged), registry().select())
    # The weights are random: there is no checkpoint to hold them against; and one process trains.
    idle = {result.check.name for result in report.results if result.status not in RAN}
    assert idle == {"model.weights_are_the_checkpoints", *OF_SEVERAL_PROCESSES}
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    weights, log = train(judged)
    torch.manual_seed(1)
    expected_weights, expected_log = train(untouched)
    assert log == expected_log
    for name, weight in weights.items():
        assert torch.equal(weight, expected_weights[name]), name


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy())


def meddle_weights(pipeline):
    with torch.no_grad():
        pipeline.model.score.weight.mul_(2)


def meddle_gradients(pipeline):
    pipeline.model.score.weight.grad = torch.ones_like(pipeline.model.score.weight)


def meddle_arguments(pipeline):
    pipeline.args.learning_rate = 1.0
    pipeline.args.something_new = True


def meddle_config(pipeline):
    pipeline.model.config.pad_token_id = 5


def meddle_callbacks(pipeline):
    pipeline.trainer.callback_handler.callbacks.clear()


def meddle_trainer(pipeline):
    pipeline.trainer.optimizer = torch.optim.SGD(pipeline.model.parameters())
    pipeline.trainer.training_step = None


def meddle_flags(pipeline):
    pipeline.model.eval()


def meddle_tokenizer(pipeline):
    pipeline.tokenizer.padding_side = "left"


def meddle_random_states(pipeline):
    torch.rand(3)


@pytest.mark.parametrize(
    "meddle",
    [value for name, value in sorted(globals().items()) if name.startswith("meddle_")],
)
def test_everything_is_put_back_also_after_an_exception(pipeline, meddle):
    before = copy.deepcopy(fingerprint(pipeline))

    def meddle_and_fail():
        with preserved(pipeline, weights=True):
            meddle(pipeline)
            assert fingerprint(pipeline) != before, "the fingerprint does not see it"
            raise KeyError

    with pytest.raises(KeyError):
        meddle_and_fail()
    assert fingerprint(pipeline) == before
