"""SanityCallback on real Trainers: a sane run, one with the factor, one that turns NaN."""

from __future__ import annotations

import functools
import importlib
import json
import logging
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainsanity
from trainsanity.errors import UsageError

pytestmark = pytest.mark.long

pytest.importorskip("tiktoken")

ACCUMULATED = {"gradient_accumulation_steps": 3, "rows": 120, "max_steps": 8, "warmup_steps": 2}


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.WARNING, logger="trainsanity")

    def lines():
        """What was found, without the step and without the line that says that training ends."""
        told = [r.getMessage() for r in caplog.records if r.name == "trainsanity"]
        found = [line for line in told if "training ends here" not in line]
        return [re.sub(r"^step \d+: ", "", line) for line in found]

    return lines


def follow(trainer, folder, action="stop", results=True, **settings):
    """Train under the callback; what it wrote."""
    trainer.args.output_dir = str(folder / "out")
    trainer.args.disable_tqdm = True
    for name, value in settings.items():
        setattr(trainer.args, name, value)
    path = folder / "sanity.json"
    trainer.add_callback(trainsanity.SanityCallback(action, path if results else None))
    trainer.train()
    return json.loads(path.read_text()) if results else None


def rows_of(document):
    return {row["name"]: row for row in document["results"]}


def checkpoints(folder):
    return sorted(path.name for path in (folder / "out").glob("checkpoint-*"))


def finite_weights(model):
    return all(p.isfinite().all() for p in model.parameters())


def broken_at(trainer, step, value=math.nan):
    """The loss of the first micro-batch of that step is not a number."""
    compute_loss = trainer.compute_loss

    def breaking(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        return loss * value if trainer.state.global_step == step - 1 else loss

    trainer.compute_loss = breaking
    return trainer


def test_a_sane_run_is_left_in_peace(tmp_path, heard):
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.repaired(**{**ACCUMULATED, "max_steps": 14})
    document = follow(trainer, tmp_path)
    assert heard() == []
    assert trainer.state.global_step == 14
    assert document["summary"]["fail"] == 0
    passed = {name for name, row in rows_of(document).items() if row["status"] == "pass"}
    assert passed >= {
        "loss.initial_is_uninformed", "loss.matches_reference", "loss.finite",
        "gradient.finite", "gradient.clipping", "update.moves_the_right_ones",
        "update.survives_rounding", "schedule.peak_is_reached",
        "schedule.learning_rate_follows",
    }  # fmt: skip


def test_a_sane_run_ends_as_it_would_without(tmp_path):
    import torch

    from fixtures.pipelines import tiny_qwen3

    with_it = tiny_qwen3.repaired(**ACCUMULATED)
    follow(with_it, tmp_path, results=False)
    without = tiny_qwen3.repaired(**ACCUMULATED)
    without.args.disable_tqdm = True
    without.train()
    for mine, other in zip(with_it.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not any(m._forward_hooks for m in with_it.model.modules())


def test_the_factor_stops_it_at_step_1(tmp_path, heard):
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.incident(**ACCUMULATED)
    if not trainer.model_accepts_loss_kwargs:
        pytest.skip("this transformers version divides the loss itself")
    document = follow(trainer, tmp_path, save_strategy="steps", save_steps=1)
    assert trainer.state.global_step == 1
    (line,) = heard()
    assert line.startswith("TS502 loss.matches_reference: the Trainer logs a loss of ")
    assert "3.00 is gradient_accumulation_steps = 3" in line
    assert "accepts_loss_kwargs = False" in line
    assert "\n" not in line
    row = rows_of(document)["loss.matches_reference"]
    assert (row["status"], round(row["factor"], 3)) == ("fail", 3.0)


def test_warn_says_it_and_goes_on(tmp_path, heard):
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.incident(**ACCUMULATED)
    if not trainer.model_accepts_loss_kwargs:
        pytest.skip("this transformers version divides the loss itself")
    follow(trainer, tmp_path, "warn")
    assert trainer.state.global_step == 8
    assert len(heard()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_run_that_turns_nan_at_step_5(tmp_path, heard, value, clip):
    from safetensors.torch import load_file

    from fixtures.pipelines import tiny_qwen3

    trainer = broken_at(tiny_qwen3.repaired(**ACCUMULATED, max_grad_norm=clip), 5, value)
    # Step 5 itself would be saved; nothing hides the NaN better than the Trainer's own filter.
    document = follow(trainer, tmp_path, save_strategy="steps", save_steps=1, logging_steps=100)
    assert trainer.state.global_step == 5
    assert checkpoints(tmp_path) == [f"checkpoint-{k}" for k in (1, 2, 3, 4)]
    assert finite_weights(trainer.model)
    last = load_file(tmp_path / "out" / "checkpoint-4" / "model.safetensors")
    trained = trainer.model.state_dict()
    assert all((trained[name] == tensor).all() for name, tensor in last.items())
    (line,) = heard()
    assert line.startswith("TS604 gradient.finite: the gradients of step 5 are not numbers")
    assert rows_of(document)["gradient.finite"]["where"] == "step 5"


def test_without_the_callback_the_checkpoint_would_be_nan(tmp_path):
    from safetensors.torch import load_file

    from fixtures.pipelines import tiny_qwen3

    trainer = broken_at(tiny_qwen3.repaired(**ACCUMULATED), 5)
    follow(trainer, tmp_path, "warn", save_strategy="steps", save_steps=5)
    assert trainer.state.global_step == 8
    saved = load_file(tmp_path / "out" / "checkpoint-5" / "model.safetensors")
    assert not all(tensor.isfinite().all() for tensor in saved.values())


def test_bf16_weights_that_the_peak_rate_cannot_move(tmp_path, heard):
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.repaired(**{**ACCUMULATED, "max_steps": 14})
    trainer.model.bfloat16()
    document = follow(trainer, tmp_path, "warn")
    assert [line.split(":")[0] for line in heard()] == ["TS702 update.survives_rounding"]
    assert rows_of(document)["update.survives_rounding"]["observed"] < 0.5


def test_weights_that_the_optimizer_does_not_hold(tmp_path, heard):
    import torch

    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.repaired(**{**ACCUMULATED, "max_steps": 14})
    copies = [torch.nn.Parameter(p.detach().clone()) for p in trainer.model.parameters()]
    trainer.optimizer = torch.optim.AdamW(copies, lr=1e-5)
    follow(trainer, tmp_path, "warn")
    assert any(line.startswith("TS703 update.moves_the_right_ones: none of") for line in heard())


def test_a_scheduler_stepped_twice(tmp_path, heard):
    from transformers import TrainerCallback

    from fixtures.pipelines import tiny_qwen3

    class Twice(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            kwargs["lr_scheduler"].step()

    trainer = tiny_qwen3.repaired(**{**ACCUMULATED, "gradient_accumulation_steps": 2})
    trainer.add_callback(Twice())
    follow(trainer, tmp_path, "warn")
    (line,) = heard()
    assert line.startswith("TS802 schedule.learning_rate_follows: ")
    assert "stepped 2 times per step" in line


def test_labels_that_belong_to_other_outputs(tmp_path, heard, monkeypatch):
    import torch

    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    factories = importlib.import_module("cli_factories")
    trainer = factories._trainer(factories._rows(48), batch_size=48)
    inner = trainer.model.forward

    @functools.wraps(inner)  # the Trainer reads its signature
    def wrong(*args, labels=None, **kwargs):
        out = inner(*args, labels=None, **kwargs)
        logits = out.logits + 5.0 * torch.nn.functional.one_hot((labels + 1) % 3, 3)
        return type(out)(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)

    trainer.model.forward = wrong
    follow(trainer, tmp_path)
    assert [line.split(":")[0] for line in heard()] == ["TS501 loss.initial_is_uninformed"]
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"action": "explode"}, "give 'warn', 'stop' or 'raise'"),
        ({"results": "no/such/folder/x.json"}, "there is no "),
    ],
)
def test_bad_arguments(arguments, says):
    with pytest.raises(UsageError, match=says):
        trainsanity.SanityCallback(**arguments)


def test_results_that_cannot_be_written_do_not_end_the_run(tmp_path, heard):
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.repaired(**ACCUMULATED)
    (tmp_path / "sanity.json").mkdir()
    callback = trainsanity.SanityCallback(results=tmp_path / "sanity.json")
    trainer.add_callback(callback)
    trainer.args.disable_tqdm = True
    trainer.train()
    assert trainer.state.global_step == 8
    assert "the results cannot be written to" in heard()[0]


def test_it_is_a_trainer_callback_that_loads_nothing_before_it_is_used():
    code = (
        "import sys, trainsanity, trainsanity.live.callback\n"
        "assert 'transformers' not in sys.modules and 'torch' not in sys.modules\n"
        "from transformers import TrainerCallback\n"
        "assert issubclass(trainsanity.SanityCallback, TrainerCallback)\n"
        "assert trainsanity.live.callback.SanityCallback is trainsanity.SanityCallback\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_two_processes_stop_at_the_same_step(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "scripts" / "two_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
               "--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
               str(script), str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    steps = [json.loads((tmp_path / f"rank{k}.json").read_text()) for k in (0, 1)]
    assert steps == [{"step": 5, "finite": True}] * 2
    assert done.stderr.count(": TS604 gradient.finite: ") == 1
    document = json.loads((tmp_path / "sanity.json").read_text())
    assert rows_of(document)["gradient.finite"]["status"] == "fail"
    assert rows_of(document)["loss.matches_reference"]["status"] == "pass"
