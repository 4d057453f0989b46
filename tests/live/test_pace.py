"""The pace of a run: falls that were planted, and none where nothing was."""

from __future__ import annotations

import math
import time

import pytest

from tests.live.test_callback import follow, rows_of
from trainsanity.live.pace import FIRST, WARM, WINDOW, Pace

pytest.importorskip("tiktoken")

STEPS = WARM + FIRST + WINDOW + 1
"""One more: the step with which an epoch begins is left out."""

SHORT = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "rows": 120,
    "max_length": 16,
    "max_steps": STEPS,
    "warmup_steps": 2,
}
LATE = 0.25
"""Seconds that are planted in the collator, which takes a few milliseconds otherwise."""


def test_a_wait_that_grows_is_told(tmp_path):
    """The collator sleeps in the last steps; what the model computes is noted beside it."""
    from fixtures.pipelines import tiny_qwen3

    trainer = tiny_qwen3.repaired(**SHORT)
    collate, calls = trainer.data_collator, []

    def late(rows):
        calls.append(len(rows))
        if len(calls) > STEPS - WINDOW // 2 - 2:
            time.sleep(LATE)
        return collate(rows)

    trainer.data_collator = late
    rows = rows_of(follow(trainer, tmp_path, action="warn"))
    wait = rows["speed.loader_keeps_up"]
    assert wait["status"] == "warning"
    # The median of the window's steps waited as long as was planted.
    assert wait["observed"] > LATE > wait["expected"]
    assert rows["speed.steps_take_alike"]["observed"] > 0


def steps_of(pace, seconds, waits, positions):
    """Fill in steps as if they had been taken; return the findings, by question."""
    rows = list(zip(seconds, waits, positions, strict=True))
    pace.first, window = rows[:FIRST], rows[FIRST:]
    pace.window.extend(window)
    return {
        name: [item for item in question() if hasattr(item, "headline")]
        for name, question in pace.questions.items()
    }


def even(value):
    return [value + value / 100 * math.sin(k) for k in range(FIRST + WINDOW)]


def test_a_steady_run_has_no_finding():
    found = steps_of(Pace(None, hooked=False), even(1.0), even(0.01), [100] * (FIRST + WINDOW))
    assert found == {"speed.loader_keeps_up": [], "speed.steps_take_alike": []}


def test_wider_steps_are_not_called_slower():
    """A curriculum: the last steps have more positions than any of the first."""
    seconds = [1.0] * FIRST + [9.0] * WINDOW
    positions = [100] * FIRST + [400] * WINDOW
    found = steps_of(Pace(None, hooked=False), seconds, even(0.01), positions)
    assert found == {"speed.loader_keeps_up": []}


def test_one_slow_step_among_the_first_raises_the_bar():
    seconds = [1.0] * (FIRST - 1) + [3.0] + [2.0] * WINDOW
    found = steps_of(Pace(None, hooked=False), seconds, even(0.01), [100] * (FIRST + WINDOW))
    assert found["speed.steps_take_alike"] == []


def test_steps_that_get_slower_are_told():
    seconds = [*even(1.0)[:FIRST], *even(1.2)[:WINDOW]]
    found = steps_of(Pace(None, hooked=False), seconds, even(0.01), [100] * (FIRST + WINDOW))
    (finding,) = found["speed.steps_take_alike"]
    assert finding.factor == pytest.approx(1 / 1.2, rel=0.02)
    assert found["speed.loader_keeps_up"] == []
