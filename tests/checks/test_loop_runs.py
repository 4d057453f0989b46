"""Checks of the loop stage: what cannot be measured, and that nothing is left behind."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fixtures.controls import all_controls
from fixtures.controls.factories import CHEAP
from fixtures.faults import healthy, subclassed
from trainsanity.checks.loop.epoch_covers_data import epoch_covers_data
from trainsanity.checks.loop.resume_equals_straight import _rows, resume_equals_straight
from trainsanity.checks.loop.survives_killed_save import survives_killed_save
from trainsanity.checks.loop.workers_do_not_repeat_random import workers_do_not_repeat_random
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.batches.batch import MicroBatch
from trainsanity.measurements.runs import evaluated
from trainsanity.measurements.runs.epochs import Epochs
from trainsanity.measurements.runs.evaluated import Evaluated
from trainsanity.measurements.runs.overfit import (
    FASTER,
    SLOWER,
    STRIDE,
    Overfit,
    _callback,
    _narrowed,
    constant_loss,
)
from trainsanity.measurements.runs.resume import Ended, Interrupted, Resumed, _run
from trainsanity.measurements.runs.trace import Plan, Trace, plan_of
from trainsanity.measurements.runs.workers import Workers
from trainsanity.objectives.causal_lm import CausalLM
from trainsanity.objectives.classification import MultiLabel, Regression, SingleLabel
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.testing import run_one
from trainsanity.types import Finding, Measured, Skip, Status

CONTROLS = {control.id: control for control in all_controls()}
RESUME = "loop.resume_equals_straight"


def pipeline(control="plain", change=lambda trainer: trainer, command=(), **settings):
    return PipelineSpec(
        control,
        lambda: change(CONTROLS[control].build(**{**CHEAP, **settings})),
        command=command,
    ).make()


def factory(name):
    return (f"fixtures.controls.factories:{name}__cheap",)


# --- the best constant answer --------------------------------------------------------------------


def test_the_best_constant_answer_is_the_labels_entropy():
    labels = torch.tensor([3, 3, 5, 7])
    entropy = 0.5 * math.log(2) + 0.5 * math.log(4)
    assert constant_loss(SingleLabel(), labels) == pytest.approx(entropy)
    assert constant_loss(SingleLabel(), torch.tensor([7, 7, 7])) == 0


def test_the_best_constant_answer_to_several_labels_and_to_numbers():
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert constant_loss(MultiLabel(), targets) == pytest.approx(math.log(2) / 2)
    numbers = torch.tensor([[1.0], [3.0]])
    assert constant_loss(Regression(), numbers) == pytest.approx(1.0)


def test_of_tokens_no_more_are_learnt_than_the_head_has_inputs():
    labels = torch.arange(24).reshape(3, 8)
    micro = MicroBatch({"input_ids": labels + 1, "labels": labels}, [{}] * 3)
    kept = _narrowed(CausalLM(), micro, width=10)
    # Three of each row, and the first label, which nothing is to foretell.
    assert kept["labels"].tolist() == [[*row[:4], *[-100] * 4] for row in labels.tolist()]
    assert kept["input_ids"].equal(labels + 1)
    assert labels.equal(torch.arange(24).reshape(3, 8))
    whole = _narrowed(SingleLabel(), micro, width=1)
    assert whole["labels"].equal(labels)


def test_the_rate_grows_while_the_loss_falls_and_shrinks_when_it_does_not():
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    weight.grad = torch.tensor([2.0])
    optimizer = torch.optim.SGD([weight], lr=0.5)
    seen, own_loss = Overfit(constant=1.0, items=2, counts="rows"), {"loss": 8.0}
    conductor = _callback(seen, own_loss)

    def rate(*losses):
        seen.losses.extend(losses)
        conductor.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
        return optimizer.param_groups[0]["lr"]

    # A tenth of the loss, over what a rate of 1 lowers it by: the gradient times itself.
    first = 8.0 / STRIDE / 4.0
    assert rate(8.0) == seen.rate == pytest.approx(first)
    assert weight.item() == 3.0
    assert rate(7.0) == pytest.approx(first * FASTER)
    assert rate(7.5) == pytest.approx(first * FASTER * SLOWER)
    assert rate(7.5) == pytest.approx(first * FASTER * SLOWER * SLOWER)
    assert own_loss["loss"] == 0.0
    assert seen.optimizer == "SGD"


def test_an_evaluation_is_of_a_few_batches():
    size = 3
    few, many = list(range(2)), torch.utils.data.TensorDataset(torch.arange(99))
    judged = pipeline()
    data = judged.trainer.train_dataset
    assert len(data) > evaluated.BATCHES * size
    trainer = judged.trainer
    trainer.args.per_device_eval_batch_size = size
    for whole in (data, few, many, {"one": data, "other": few}, None):
        trainer.eval_dataset = whole
        with evaluated._few_rows(judged):
            cut = trainer.eval_dataset
        assert trainer.eval_dataset is whole
        if whole is data:
            assert len(cut) == evaluated.BATCHES * size
            assert cut[0] == data[0]
        elif isinstance(whole, dict):
            assert [len(one) for one in cut.values()] == [evaluated.BATCHES * size, 2]
        else:
            assert cut is whole


def test_what_an_evaluation_leaves_is_read_after_the_first_of_two(monkeypatch):
    """Before the second, random numbers are drawn, to see whether it sets a seed."""
    done = []
    trainer = SimpleNamespace(evaluate=lambda: done.append(random.random()), optimizer=None)
    monkeypatch.setattr(evaluated, "loop_state", lambda _: {"weights": len(done)})
    seen = Evaluated(Plan(1, 2, 4), Trace(), Trace())
    before = random.getstate()
    evaluated._evaluate(trainer, seen)
    assert (seen.before, seen.after, len(done)) == ({"weights": 0}, {"weights": 1}, 2)
    (first, between), (again, after) = seen.random
    assert len({str(one) for one in (first, between, again, after)}) == 4
    assert random.getstate() == before


# --- where a run is cut --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "max_steps", "cut", "steps"),
    [(300, 1_000, 2, 4), (8, 1_000, 3, 6), (4, 1_000, 2, 4), (300, 3, 1, 2)],
)
def test_the_cut_lies_inside_an_epoch_where_there_is_an_inside(rows, max_steps, cut, steps):
    plan = plan_of(pipeline(rows=rows, max_steps=max_steps))
    assert (plan.cut, plan.steps) == (cut, steps)
    assert plan.per_epoch == -(-rows // 4)


def test_a_run_of_one_step_is_not_cut():
    with pytest.raises(Skip, match="a run of 1 optimizer steps cannot be cut in two"):
        plan_of(pipeline(max_steps=1))


# --- resuming ------------------------------------------------------------------------------------


def test_without_a_command_nobody_builds_it_again():
    result = run_one(RESUME, pipeline())
    assert result.status is Status.SKIP
    assert "a fresh process cannot build this pipeline" in result.reason


def test_a_factory_that_only_this_process_knows():
    result = run_one(RESUME, pipeline(command=("gone.module:factory",)))
    assert result.status is Status.SKIP
    assert "could not build the pipeline: there is no module 'gone.module'" in result.reason


def test_a_checkpoint_that_cannot_be_saved_is_a_finding():
    def breaks(self, *args, **kwargs):
        raise OSError("No space left on device")

    broken = pipeline(command=factory("plain"), change=lambda t: subclassed(t, _save_scaler=breaks))
    result = run_one(RESUME, broken)
    assert result.status is Status.FAIL
    said = result.findings[0].headline
    assert "cannot be saved: OSError: No space left on device" in said


def cut(trainer, folder):
    """The weights, without their second half."""
    file = Path(folder, "model.safetensors")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def of_another_size(trainer, folder):
    """A head that another number of labels would have."""
    from safetensors.torch import load_file, save_file

    file, config = Path(folder, "model.safetensors"), Path(folder, "config.json")
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("score"))
    save_file({**tensors, name: tensors[name][:7].clone()}, file, metadata={"format": "pt"})
    written = json.loads(config.read_text(encoding="utf-8"))
    for labels in ("id2label", "label2id"):
        written.pop(labels, None)
    config.write_text(json.dumps({**written, "num_labels": 7}), encoding="utf-8")


def full(trainer, folder):
    raise OSError("No space left on device")


def no_tokenizer(trainer, folder):
    for file in Path(folder).glob("*token*"):
        file.unlink()


def odd_tokenizer(trainer, folder):
    for file in Path(folder).glob("tokenizer*"):
        file.write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("then", "name", "says"),
    [
        (full, "TS903", "save_model raised OSError: No space left on device"),
        (cut, "TS903", "loading raised "),
        (of_another_size, "TS903", "the loaded model makes logits of (2, 7), not (2, 280)"),
        (no_tokenizer, "TS904", "save_model wrote no tokenizer"),
        (odd_tokenizer, "TS904", "loading raised "),
    ],
)
def test_what_cannot_be_saved_or_loaded_is_a_finding(then, name, says):
    def save_model(self, output_dir=None, _internal_call=False):
        super(type(self), self).save_model(output_dir, _internal_call)
        then(self, output_dir)

    result = run_one(name, pipeline(change=lambda t: subclassed(t, save_model=save_model)))
    assert result.status is Status.FAIL
    assert says in result.findings[0].headline


def test_a_process_that_dies_is_quoted():
    died = Resumed(
        Plan(2, 4, 18), Trace(), Ended(error="ended with code -9; its last line: Killed")
    )
    finding, measured = resume_equals_straight(died)
    assert isinstance(finding, Finding)
    assert finding.headline == (
        "the resumed run did not finish: ended with code -9; its last line: Killed"
    )
    assert "the weights after step 4 differ by an unknown amount" in measured.message


@pytest.mark.parametrize("known", [0, 1])
def test_rows_that_come_once_more_are_told_with_their_step(known):
    straight = Trace({k: [f"rows of {k}"] for k in range(4)})
    fresh = Trace({2: straight.batches[known], 3: straight.batches[3]})
    (finding,) = _rows(Plan(2, 4, 18), straight, fresh)
    assert finding.headline == (
        f"after resuming, step 3 trains on the rows of step {known + 1} once more"
    )
    assert (finding.observed, finding.expected, finding.where) == (
        f"rows of step {known + 1}",
        "rows of step 3",
        "step 3",
    )
    (finding,) = _rows(Plan(3, 6, 18), straight, straight)
    assert finding.headline == "the resumed run begins at step 1 and not at step 4"
    assert (finding.observed, finding.expected) == (1, 4)
    on = Trace({k: straight.batches[k] for k in (2, 3)})
    assert list(_rows(Plan(2, 4, 18), straight, on)) == []


def test_a_process_that_takes_too_long_is_ended_and_one_that_fails_is_quoted(tmp_path):
    request = tmp_path / "slow" / "request.json"
    request.parent.mkdir()
    os.mkfifo(request)  # nobody writes to it
    assert _run(request, 0.5) == (None, "")
    request = tmp_path / "request.json"
    request.write_text("no JSON", encoding="utf-8")
    code, last = _run(request, 60)
    assert code == 1
    assert last.startswith("json.decoder.JSONDecodeError: ")


@pytest.mark.parametrize(
    ("chosen", "error"),
    [("checkpoint-2", ""), ("checkpoint-3", "FileNotFoundError: gone")],
)
def test_half_a_checkpoint_that_is_not_used_in_silence_passes(chosen, error):
    seen = Interrupted(
        Plan(2, 4, 18), Ended(killed=9), ["a"], ["a", "b"], chosen, Trace(), Ended(error=error)
    )
    (measured,) = survives_killed_save(seen)
    assert isinstance(measured, Measured)
    assert f"the next run takes {chosen} and silently loses 0 of 7 states" in measured.message
    assert measured.observed == {"chosen": chosen, "error": error, "lost": []}


def test_a_run_that_was_not_killed_shows_nothing():
    seen = Interrupted(Plan(2, 4, 18), Ended(), [], [], "", Trace(), Ended())
    with pytest.raises(Skip, match="was not interrupted while it saved"):
        list(survives_killed_save(seen))


# --- nothing is touched --------------------------------------------------------------------------


def test_what_has_no_occasion_says_why():
    """The runs that have one are taken in test_controls.py, which looks at what they leave."""
    report = run(pipeline(), registry().select(["TS917", "TS918", "TS919"]))
    assert {r.check.name: r.reason for r in report.results if r.status is Status.SKIP} == {
        "loop.workers_split_the_stream": "the data loader has 0 workers: a stream is read by one "
        "process",
        "loop.load_is_whole": "save_strategy is no: no checkpoint is loaded again",
        "loop.tokenizer_is_saved": "save_strategy is no: no checkpoint is loaded again",
    }


def test_a_custom_training_loop_has_no_trainer_to_run():
    trainer = healthy(**CHEAP)
    model, optimizer = trainer.model, torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    model.config.pad_token_id = trainer.processing_class.pad_token_id

    def train_step(batches):
        losses = [model(**batch).loss / len(batches) for batch in batches]
        for loss in losses:
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return sum(float(loss.detach()) for loss in losses)

    rows = trainer.train_dataset.remove_columns("text")
    own = Pipeline.from_loop(model, rows, trainer.data_collator, train_step, optimizer)
    report = run(own, registry().select(["loop"], ["TS901"]))
    by_name = {result.check.name: result for result in report.results}
    # In which mode the model trains is seen in any step, and other processes train loops, too.
    for name in ("loop.trains_in_train_mode", "loop.teachers_are_quiet"):
        seen = by_name.pop(name)
        assert seen.status is Status.PASS, seen
    alone = by_name.pop("loop.ranks_hold_equal_weights")
    assert (alone.status, alone.reason) == (
        Status.SKIP,
        "this pipeline has no other processes",
    )
    assert by_name.pop("loop.ranks_are_allocated").status is Status.SKIP
    rest = by_name.values()
    assert {r.status for r in rest} == {Status.SKIP}
    assert all(r.reason.startswith("this pipeline has no trainer") for r in rest)


# --- epochs and workers --------------------------------------------------------------------------


def read(first, second, **changes):
    rows = {"rows": 12, "batch": 5, "drops_last": False, "sampler": "S", "strategy": "random"}
    epochs = Epochs(read=[first, second], **{**rows, **changes})
    return [f.headline for f in epoch_covers_data(epochs) if isinstance(f, Finding)]


SHUFFLED = [3, 1, 2, 0, 5, 4, 7, 6, 9, 8, 11, 10]
OTHER = SHUFFLED[::-1]


def test_epochs():
    assert read(SHUFFLED, OTHER) == []
    assert read(SHUFFLED, SHUFFLED) == [
        "the second epoch reads its 12 rows in the same order as the first"
    ]
    ascending = list(range(12))
    assert read(ascending, ascending, strategy="sequential") == []
    assert read(ascending, OTHER) == [
        "the first epoch reads its 12 rows in the order of the dataset"
    ]
    assert read(SHUFFLED[:10], OTHER[:10], drops_last=True) == []
    assert read(SHUFFLED[:10], OTHER[:10]) == [
        "epoch 1 leaves out 2 of 12 rows and reads 0 more than once"
    ]
    # Of two rows, every other shuffle is the same again.
    assert read([0, 1], [0, 1], rows=2) == []


def test_workers_that_repeat_only_the_epoch():
    alike = [[["a", "b"], ["c", "d"]]] * 2
    found = list(workers_do_not_repeat_random(None, Workers(2, alike)))
    assert [f.headline for f in found if isinstance(f, Finding)] == [
        "the second epoch repeats the random numbers of the first"
    ]
