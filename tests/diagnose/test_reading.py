"""Logs in every form, and what is no log."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path

import pytest

from trainsanity.diagnose.case import Case, Known
from trainsanity.diagnose.entries import KEPT, Entry, Log
from trainsanity.diagnose.questions import ask
from trainsanity.diagnose.reading import read
from trainsanity.errors import UsageError

ROW = {"step": 1, "loss": 5.7, "grad_norm": 2.5, "learning_rate": 1.5e-08, "epoch": 0.1}


def written(folder: Path, text: str, name: str = "train.log", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def log_of(*rows):
    log = Log("made")
    for row in rows:
        log.add(Entry("line 1", **row))
    return log.closed()


# --- forms ---------------------------------------------------------------------------------------

FOUR = "{'loss': 5.7, 'grad_norm': 2.5, 'learning_rate': 1.5e-08, 'epoch': 0.1}"
FIVE = "{'loss': '5.7', 'grad_norm': '2.5', 'learning_rate': '1.5e-08', 'epoch': '0.1'}"
FORMS = {
    "transformers-4": f"some library said hello\n{FOUR}\n",
    "transformers-5": f"{FIVE}\n",
    "behind a bar": f"  0%|          | 1/10 [00:01<00:09,  1.0s/it]\r{FIVE}\r  0%| | 1/10\n",
    "prefixed": f"2026-01-01 12:00:00 [rank0]: {FOUR}\n",
    "json lines": json.dumps(ROW) + "\n",
    "nested json lines": json.dumps({"time": 3, "metrics": ROW}) + "\n",
    "json list": json.dumps([ROW], indent=1),
    "json on one line": json.dumps({"log_history": [ROW], "max_steps": 10}),
    "csv": "step,loss,grad_norm,learning_rate,epoch\n1,5.7,2.5,1.5e-08,0.1\n",
    "tabs": "step\tloss\tgrad norm\tlr\tepoch\n1\t5.7\t2.5\t1.5e-08\t0.1\n",
    "markdown": "Look:\n\n| Step | **Loss** | Grad Norm | LR | Epoch |\n|---:|:--|---|---|---|\n"
    "| 1 | **5.7** | 2.5 | `1.5e-08` | 0.1 |\n\nThat was it.\n",
    "blanks": "step  loss  grad_norm   lr       epoch\n1     5.7   2.5    1.5e-08  0.1\n",
    "llama factory": json.dumps(
        {"current_steps": 1, "total_steps": 9, "lr": ROW["learning_rate"]}
        | {k: ROW[k] for k in ("loss", "grad_norm", "epoch")}
    )
    + "\n",
    "numbers of numpy and torch": "{'loss': np.float64(5.7), 'grad_norm': tensor(2.5, "
    "device='cuda:0'), 'learning_rate': 1.5e-08, 'epoch': 0.1}\n",
    "semicolons": "step;loss;grad_norm;lr;epoch\n1;5.7;2.5;1.5e-08;0.1\n",
    "wandb": json.dumps({f"train/{k}": v for k, v in ROW.items()}) + "\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_is_the_same_entry(tmp_path, form, encoding):
    log = read(str(written(tmp_path, FORMS[form], encoding=encoding)))
    (entry,) = log.first
    values = (entry.loss, entry.grad_norm, entry.learning_rate, entry.epoch)
    assert values == (5.7, 2.5, 1.5e-08, 0.1)
    assert log.notes == []


def test_trainer_state_and_a_folder_of_checkpoints(tmp_path):
    for steps in (2, 10):
        folder = tmp_path / f"checkpoint-{steps}"
        folder.mkdir()
        history = [{**ROW, "step": k} for k in range(1, steps + 1)]
        history.append({"step": steps, "eval_loss": 5.6, "epoch": 0.1})
        state = {"global_step": steps, "is_world_process_zero": True, "log_history": history,
                 "max_steps": 40, "stateful_callbacks": {"T": {"args": {"x": True}}}}  # fmt: skip
        (folder / "trainer_state.json").write_text(json.dumps(state, indent=2))
    config = {"architectures": ["XForSequenceClassification"], "hidden_size": 64,
              "id2label": {"0": "a", "1": "b"}}  # fmt: skip
    (tmp_path / "checkpoint-10" / "config.json").write_text(json.dumps(config))
    log = read(str(tmp_path))
    assert (log.count, log.facts["max_steps"], len(log.evals)) == (10, 40, 1)
    assert (log.facts["num_labels"], log.facts["hidden_size"]) == (2, 64)
    assert log.notes == ["read from checkpoint-10, the latest of 2 states"]
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"log_history": [')
    log = read(str(tmp_path))
    assert log.count == 2
    assert "checkpoint-10" in log.notes[0]
    assert "not read" in log.notes[0]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "runs" / "here") as writer:
        for step in (1, 2):
            writer.add_scalar("train/loss", 5.5 + step, step)
            writer.add_scalar("train/learning_rate", 1e-5, step)
        writer.add_scalar("eval/loss", 5.25, 2)
    log = read(str(tmp_path))
    assert [(e.step, e.loss) for e in log.first] == [(1, 6.5), (2, 7.5)]
    assert log.evals[0][1].eval_loss == 5.25


# --- bad input: one sentence ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ('{"log_history": [\n{"loss": 5', "is JSON that ends in the middle"),
        ('{\n"log_history": [],\n"max_steps": 10\n}', "has no logged loss: the run ended before"),
        ("Epoch 1/5\n99/99 - 2s - loss: 0.4\n", "looks like a log of Keras, which is not read"),
        (
            " iteration   100/  500000 | learning rate: 1.5E-06 | lm loss: 1.03E+01 |\n",
            "looks like a log of Megatron-LM, which is not read",
        ),
        ("Step 1 | loss:5.71 lr:1e-05\n", "looks like a log of torchtune, which is not read"),
        ("iter 0: loss 10.98, time 4920.1ms\n", "looks like a log of another framework"),
        ("step 1 loss=0.4 lr=3\n", "looks like a log of another framework"),
        (
            "{'train_runtime': 3.1, 'train_loss': 3.4, 'epoch': 1.0}\n",
            "has no logged loss, only the Trainer's summary (train_runtime)",
        ),
        ("Dear diary,\ntoday was quiet.\n", "has no entry with a loss"),
        ("a,b\n1,2\n", "has no entry with a loss"),
        ("x\0y", "that is a binary file"),
    ],
    ids=[
        "empty",
        "blank",
        "truncated",
        "nothing-yet",
        "keras",
        "megatron",
        "torchtune",
        "nanogpt",
        "other",
        "summary",
        "prose",
        "csv",
        "binary",
    ],
)
def test_what_is_no_log(tmp_path, text, says):
    with pytest.raises(UsageError, match=re.escape(says)) as error:
        read(str(written(tmp_path, text)))
    assert "\n" not in str(error.value)


def test_no_such_file_and_a_folder_without_states(tmp_path):
    with pytest.raises(UsageError, match="there is no file or folder"):
        read(str(tmp_path / "no"))
    with pytest.raises(UsageError, match=r"has no checkpoint-\*/trainer_state.json"):
        read(str(tmp_path))


def test_json_that_ends_in_the_middle_is_judged_as_far_as_it_goes(tmp_path):
    text = json.dumps({"log_history": [{**ROW, "step": k} for k in range(1, 9)]}, indent=2)
    log = read(str(written(tmp_path, text[: len(text) // 2])))
    assert 0 < log.count < 8
    assert log.notes == ["the log ends in the middle of an entry; what comes before it is judged"]
    log = read(str(written(tmp_path, f"{FOUR}\n{FOUR[:30]}")))
    assert log.count == 1
    assert len(log.notes) == 1


def test_two_runs_in_one_log(tmp_path):
    one = "".join(json.dumps({**ROW, "step": k, "loss": 69.0}) + "\n" for k in range(1, 5))
    two = "".join(json.dumps({**ROW, "step": k}) + "\n" for k in range(1, 4))
    log = read(str(written(tmp_path, one + two)))
    assert (log.count, log.runs, log.losses) == (3, 2, (5.7, 5.7))
    assert log.notes == [
        "the steps start again 1 time: the log holds 2 runs, and the last one, from line 5, is "
        "judged"
    ]


def test_runs_that_were_appended_show_by_their_epochs_alone(tmp_path):
    """Printed lines have no step."""

    def lines(*epochs):
        return "".join(f"{{'loss': 5.7, 'epoch': {epoch}}}\n" for epoch in epochs)

    log = read(str(written(tmp_path, lines(0.1, 0.1, 0.2) + lines(0.1, 0.2, 0.3))))
    assert (log.count, log.runs, log.resumed) == (3, 2, 0)
    assert "the last one, from line 4, is judged" in log.notes[0]
    log = read(str(written(tmp_path, lines(0.1, 0.2, 0.3) + lines(0.2, 0.3))))
    assert (log.count, log.runs, log.resumed) == (5, 1, 1)
    assert log.notes[0].startswith("line 4 goes back from epoch 0.3 to 0.2: the run was resumed")


def test_runs_that_wrote_into_one_log_at_a_time():
    steps = [k for pair in zip(range(2, 9), range(1, 8), strict=True) for k in pair]
    log = log_of(*({"step": k, "loss": 5.0 + i / 10} for i, k in enumerate([0, *steps])))
    assert log.resumed == 7
    (note,) = log.notes
    assert "goes back from step 2 to 1, and 6 more do so" in note
    assert "several runs that wrote into one log" in note


def test_a_resumed_run():
    log = log_of(*({"step": k, "loss": 5.0 + k} for k in (1, 2, 3, 4, 3, 4, 5)))
    assert (log.runs, log.resumed) == (1, 1)
    assert "goes back from step 4 to 3: the run was resumed" in log.notes[0]
    late = log_of(*({"step": k, "loss": 69.0} for k in (501, 502)))
    report = ask(Case(late, Known(num_labels=280)))
    (reason,) = (r.reason for r in report.results if r.check.code == "TS501")
    assert reason == "the log begins at step 501: the first steps are not in it"


def test_an_entry_printed_twice_counts_once():
    assert log_of({"step": 1, "loss": 2.0}, {"step": 1, "loss": 2.0}).count == 1


def test_a_long_log_takes_no_more_memory(tmp_path):
    """The same, but for its length, as the 200 MB log of tests/benchmarks/diagnose.py."""
    line = json.dumps({**ROW, "step": 1}) + "\n"
    peaks = []
    for count in (10_000, 30_000):
        path = tmp_path / "long.log"
        with path.open("w") as stream:
            for step in range(count):
                stream.write(line.replace('"step": 1', f'"step": {step}'))
        tracemalloc.start()
        log = read(str(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert log.count == count
        assert len(log.kept) <= KEPT
    assert peaks[1] < 1.2 * peaks[0]
