"""The pipeline's state is restored: training after the checks equals training without them."""

from __future__ import annotations

import copy
import os
import random
import signal

import pytest
import torch

from fixtures.faults import healthy
from tests.check_snapshots import statuses_of
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.errors import UsageError
from trainsanity.isolation.fingerprint import StateChanged, fingerprint, guarded
from trainsanity.isolation.snapshot import preserved
from trainsanity.pipeline import Pipeline
from trainsanity.types import RAN, Skip


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
    # What looked away is what looks away on any such pipeline: all others had their look.
    idle = {r.check.name: str(r.status) for r in report.results if r.status not in RAN}
    assert idle == statuses_of("plain")
    assert set(idle.values()) == {"skip"}
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
    trainer = healthy()
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    trainer.optimizer = optimizer
    trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    return Pipeline.from_trainer(trainer)


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


def meddle_tokenizers_backend(pipeline):
    pipeline.tokenizer("a b c", truncation=True, max_length=2, padding="max_length")


def meddle_random_states(pipeline):
    torch.rand(3)


def meddle_optimizer(pipeline):
    pipeline.trainer.optimizer.param_groups[0]["lr"] = 1.0


def meddle_scheduler(pipeline):
    pipeline.trainer.optimizer.step()
    pipeline.trainer.lr_scheduler.step()


def meddle_state(pipeline):
    pipeline.trainer.state.global_step = 7


def meddle_environment(pipeline):
    os.environ["TRAINSANITY_MEDDLED"] = "1"


def meddle_working_directory(pipeline):
    os.chdir("/")


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


def test_hooks_are_those_from_before(pipeline):
    head = pipeline.model.score
    kept = head.register_forward_hook(lambda *args: None)
    kinds = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks)
    before = [dict(kind) for kind in kinds]
    with preserved(pipeline):
        head.register_forward_hook(lambda *args: None)
        head.register_forward_pre_hook(lambda *args: None)
        head.register_full_backward_hook(lambda *args: None)
        assert [dict(kind) for kind in kinds] != before
    assert [dict(kind) for kind in kinds] == before
    kept.remove()


@pytest.fixture
def linear():
    return Pipeline(torch.nn.Linear(2, 2))


@pytest.fixture
def known():
    """Hashes that a session carries from one measurement to the next."""
    return {}


@pytest.mark.parametrize("error", [KeyError("why"), Skip("not here"), UsageError("give more")])
def test_a_change_is_reported_although_the_measurement_raised(linear, known, error):
    def measure():
        with guarded(linear, "a measurement", known):
            linear.model.eval()
            raise error

    with pytest.raises(
        StateChanged, match="a measurement changed the pipeline's train/eval flags, and "
    ):
        measure()


def test_a_weight_that_is_written_to_uncounted_is_seen_by_the_next_measurement_too(linear, known):
    with guarded(linear, "a measurement", known):
        pass
    with pytest.raises(StateChanged, match="another measurement changed the pipeline's weights"):  # noqa: SIM117
        with guarded(linear, "another measurement", known):
            linear.model.weight.data[0, 0] += 1
    with guarded(linear, "a third measurement", known):
        pass
    with torch.no_grad():
        linear.model.weight += 1  # between two measurements: nobody is to blame
    with guarded(linear, "a fourth measurement", known):
        pass


def test_an_interrupt_gets_through_with_a_note_on_what_changed(linear, known):
    def measure():
        with guarded(linear, "a measurement", known):
            linear.model.eval()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        measure()
    assert caught.value.__notes__ == ["a measurement changed the pipeline's train/eval flags"]


def test_files_in_output_dir_are_seen(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.args, "output_dir", str(tmp_path / "out"))
    before = fingerprint(pipeline)
    # Handlers of the user's own may write logs there, and another run remove the empty folder.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.log").write_text("step 1")
    assert fingerprint(pipeline)["output_dir"] == before["output_dir"] == []
    (tmp_path / "out" / "trainer_state.json").write_text("{}")
    written = fingerprint(pipeline)
    assert written["output_dir"] != before["output_dir"]
    (tmp_path / "out" / "trainer_state.json").write_text("{ }")
    assert fingerprint(pipeline)["output_dir"] != written["output_dir"]
    # In a project's root others write, too.
    monkeypatch.chdir(tmp_path / "out")
    before = fingerprint(pipeline)
    (tmp_path / "out" / "other.pt").write_text("")
    assert fingerprint(pipeline)["output_dir"] == before["output_dir"]


def test_ctrl_c_while_putting_back_waits_until_all_is_back(linear):
    class Impatient(random.Random):
        """Interrupts when its state is put back."""

        def setstate(self, state):
            super().setstate(state)
            signal.raise_signal(signal.SIGINT)

    drawn_from = Impatient(0)
    linear.model.generator = drawn_from
    before, drawn = fingerprint(linear), drawn_from.getstate()

    def measure():
        with preserved(linear, weights=True):
            meddle_flags(linear)
            linear.model.weight.data.mul_(2)
            linear.model.generator.random()

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # or a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            measure()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert fingerprint(linear) == before
    assert drawn_from.getstate() == drawn


def test_one_part_that_cannot_be_put_back_does_not_keep_the_others(pipeline):
    class Onward(random.Random):
        def setstate(self, state):
            raise TypeError("never back")

    pipeline.model.generator = generator = Onward(0)
    before = fingerprint(pipeline)

    def measure():
        with preserved(pipeline, weights=True):
            meddle_weights(pipeline)
            meddle_flags(pipeline)
            generator.random()

    try:
        with pytest.raises(TypeError, match="never back"):
            measure()
        assert fingerprint(pipeline) == before
    finally:
        del pipeline.model.generator
