"""``trainsanity rehearse``: what ends a run is found before it begins."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.examples import rehearsed

pytest.importorskip("tiktoken")


def test_the_batch_that_runs_out_of_memory_is_named(call, tmp_path):
    path = tmp_path / "told.json"
    ended = call("rehearse", "rehearsed:too_wide", "--json", str(path))
    assert ended.exit_code == 1
    assert "the run will not end: memory" in ended.stdout
    told = json.loads(path.read_text())
    assert told["exit_code"] == 1
    tried = told["batches"]
    fails = min((b for b in tried if not b["fits"]), key=lambda b: b["length"])
    fits = max((b for b in tried if b["fits"]), key=lambda b: b["length"])
    # The two are neighbours, on both sides of the width that was planted.
    assert fits["shape"][1] <= rehearsed.WIDEST < -(-fails["length"] // 8) * 8
    lengths = lengths_of_batches()
    at = lengths.index(fails["length"])
    assert lengths[at + 1] == fits["length"] or fails["length"] == fits["length"]
    assert len(fits["peaks"]) == 2
    assert all(0 < peak < told["available_bytes"] for peak in fits["peaks"])
    assert tried[0]["length"] == max(lengths)


def lengths_of_batches():
    """The longest row of each batch of the rows in the order of their lengths."""
    trainer = rehearsed.too_wide()
    size = trainer.args.train_batch_size
    lengths = sorted((len(ids) for ids in trainer.train_dataset["input_ids"]), reverse=True)
    return lengths[::size]


def test_a_disk_that_will_be_full_is_told_with_hours(call, tmp_path):
    path = tmp_path / "told.json"
    ended = call("rehearse", "rehearsed:saves_every_step", "--json", str(path))
    told = json.loads(path.read_text())
    found = told["checkpoint"]
    assert found["at_once"] == told["saves"] == told["max_steps"]
    assert told["evaluations"] == told["max_steps"] // 1_000
    # By what the disk of this machine has; weights and two moments of each, in float32.
    trainer = rehearsed.saves_every_step()
    weights = 4 * sum(p.numel() for p in trainer.model.parameters())
    assert found["size"] == pytest.approx(3 * weights, rel=0.1)
    full = found["size"] * told["saves"] > shutil.disk_usage(tmp_path).free
    assert ended.exit_code == int(full)
    hours = told["hours"]
    assert hours["training"] == pytest.approx(told["max_steps"] * told["step_seconds"] / 3600)
    assert hours["saving"] == pytest.approx(told["saves"] * found["seconds"] / 3600)
    assert hours["evaluation"] > 0
    (evaluation,) = told["evaluation"]
    assert evaluation["fits"]
    assert evaluation["longest"] > 0


def test_a_loop_of_ones_own_is_answered_in_a_sentence(call, complaint):
    ended = call("rehearse", "rehearsed:loop")
    assert "has no Trainer" in complaint(ended)
