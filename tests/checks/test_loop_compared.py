"""Checks of the loop stage on made-up traces.

Findings and where they are is asserted; their words are compared with snapshots.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.check_snapshots import assert_yielded
from trainsanity.checks.loop.epoch_covers_data import epoch_covers_data
from trainsanity.checks.loop.eval_leaves_training_alone import LEFT, eval_leaves_training_alone
from trainsanity.checks.loop.overfits_one_batch import overfits_one_batch
from trainsanity.checks.loop.resume_equals_straight import resume_equals_straight
from trainsanity.checks.loop.save_load_equal import save_load_equal
from trainsanity.checks.loop.survives_killed_save import survives_killed_save
from trainsanity.checks.loop.workers_do_not_repeat_random import workers_do_not_repeat_random
from trainsanity.measurements.runs.epochs import Epochs
from trainsanity.measurements.runs.evaluated import Evaluated
from trainsanity.measurements.runs.overfit import Overfit
from trainsanity.measurements.runs.resume import Ended, Interrupted, Resumed, _folder
from trainsanity.measurements.runs.saved import Saved
from trainsanity.measurements.runs.trace import Plan, Trace, max_weight_difference
from trainsanity.measurements.runs.workers import Workers
from trainsanity.types import Finding, Measured, Skip

PLAN = Plan(2, 4, 18)

MOMENT = {
    "weights": {"a": 1, "b": 2, "c": 3, "d": 4},
    "trainable": ["a", "b"],
    "settings": {"x.rate": "0.1"},
    "optimizer": [{"exp_avg": 1}, {"exp_avg": 2}],
    "learning rate": [0.1, 0.2],
    "scheduler": 2,
    "random numbers": {"python": "p", "numpy": "n", "torch": "t"},
}


def trace(begin=0, **changes):
    """Two micro-batches a step, none like another."""
    batches = {step: [f"{step}a", f"{step}b"] for step in range(begin, 4)}
    losses = {step: [1.0, 2.0] for step in range(begin, 4)}
    return Trace(**{"batches": batches, "losses": losses, "moment": MOMENT, **changes})


def findings(found):
    assert isinstance(found[-1], Measured)
    return [one for one in found if isinstance(one, Finding)]


def resumed(fresh, **changes):
    seen = Resumed(PLAN, trace(), Ended(trace=fresh), ["optimizer.pt", "model.safetensors"])
    return list(resume_equals_straight(replace(seen, **changes)))


def test_equal_runs():
    (equal,) = resumed(trace(2))
    assert equal.message.startswith(
        "resumed after step 2 in a fresh process: 0 of 4 micro-batches and 0 of 7 states"
    )
    assert equal.message.endswith("after step 4 differ by up to 0 (up to 0 allowed)")
    (near,) = resumed(trace(2), difference=1e-3, noise=1e-3)
    assert near.message.endswith("after step 4 differ by up to 0.001 (up to 0.004 allowed)")
    (far,) = findings(resumed(trace(2), difference=1e-2, noise=1e-3))
    assert (far.observed, far.where) == (1e-2, "the weights after step 4")
    assert findings(resumed(trace(2), difference=math.nan, noise=1e-3))


@pytest.mark.parametrize(
    ("batches", "where"),
    [
        ({0: ["0a", "0b"], 1: ["1a", "1b"]}, "trainer_state.json"),
        ({1: ["1a", "1b"], 2: ["2a", "2b"], 3: ["3a", "3b"]}, "trainer_state.json"),
        ({3: ["3a", "3b"]}, "trainer_state.json"),
        ({}, "trainer_state.json"),
        ({2: ["0a", "0b"], 3: ["1a", "1b"]}, "step 3"),
        ({2: ["2a", "2b"], 3: ["2a", "2b"]}, "step 4"),
        ({2: ["other", "2b"], 3: ["3a", "3b"]}, "step 3"),
        ({2: ["2a", "2b"]}, "step 4"),
    ],
    ids=["anew", "early", "late", "never", "again", "twice", "other", "short"],
)
def test_rows_of_a_resumed_run(batches, where, request):
    (finding,) = findings(resumed(trace(2, batches=batches)))
    assert finding.where == where
    assert_yielded("loop.resume_equals_straight", f"rows {request.node.callspec.id}", [finding])


OTHER = {
    "weights": {"a": 1, "b": 0, "c": 0, "d": 0, "e": 0},
    "trainable": ["a"],
    "settings": {"x.rate": "0.2"},
    "optimizer": [{"exp_avg": 1}, {"exp_avg": 0}],
    "learning rate": [0.1, 0.3],
    "scheduler": 0,
    "random numbers": {"python": "p", "numpy": "x", "torch": "x"},
}


@pytest.mark.parametrize("name", MOMENT)
def test_what_a_resumed_run_has_lost(name):
    found = resumed(trace(2, moment={**MOMENT, name: OTHER[name]}), difference=1.0)
    (finding,) = findings(found)
    if isinstance(MOMENT[name], list):  # of another length they are not counted one by one
        (longer,) = findings(resumed(trace(2, moment={**MOMENT, name: [*MOMENT[name], 0]})))
        assert longer.observed == "others"
    gone = resumed(trace(2, moment={k: v for k, v in MOMENT.items() if k != name}))
    assert_yielded("loop.resume_equals_straight", f"lost {name}", [finding, *findings(gone)])
    seen = Interrupted(
        PLAN, Ended(killed=9), ["a", "b"], ["a", "b", "c", "d"], "checkpoint-3", trace(), Ended()
    )
    going_on = Ended(trace=trace(2, moment={**MOMENT, name: OTHER[name]}))
    found = list(survives_killed_save(replace(seen, resumed=going_on)))
    (finding,) = findings(found)
    assert (finding.observed, finding.where) == ([name], "checkpoint-3 without c, d")
    assert "(2 of 4 files of checkpoint-3 were written)" in finding.headline
    assert found[-1].message.endswith("takes checkpoint-3 and silently loses 1 of 7 states")
    (measured,) = survives_killed_save(replace(seen, resumed=Ended(trace=trace(2))))
    assert measured.message.endswith("takes checkpoint-3 and silently loses 0 of 7 states")
    (measured,) = survives_killed_save(replace(seen, chosen="", resumed=Ended(error="none")))
    assert measured.message.endswith("takes no checkpoint and silently loses 0 of 7 states")


def test_a_run_that_is_broken_before_it_is_compared():
    bad = trace(losses={0: [1.0], 1: [1.0], 2: [1.0, math.inf], 3: [math.nan]})
    assert bad.broken == "the loss of step 3 is inf"
    (finding,) = findings(resumed(trace(2), straight=bad))
    assert finding.headline.startswith("the loss of step 3 is inf: that two such runs")
    weights = trace(weights={"a": torch.ones(2), "b": torch.tensor([1.0, math.nan])})
    assert weights.broken == "b is not finite after the last step"
    assert trace(weights={"a": torch.ones(2)}).broken == ""


def test_how_far_apart_two_runs_end():
    def ends(**weights):
        return Trace(weights={name: torch.tensor(values) for name, values in weights.items()})

    one = ends(a=[1.0, 2.0], b=[3.0])
    assert max_weight_difference(one, one) == 0
    assert max_weight_difference(one, ends(a=[1.0, 2.5], b=[3.25])) == 0.5
    assert max_weight_difference(one, ends(a=[1.0, 1.5], b=[2.0])) == 1
    assert max_weight_difference(one, ends(a=[1.0, 2.0])) == math.inf
    assert max_weight_difference(one, ends(a=[1.0, math.nan], b=[3.0])) == math.inf
    assert max_weight_difference(ends(a=[math.nan], b=[1.0]), ends(a=[1.0], b=[1.0])) == math.inf


# --- evaluation ----------------------------------------------------------------------------------

DRAWN = [({"python": 1, "torch": 1}, {"python": 2, "torch": 2}),
         ({"python": 3, "torch": 3}, {"python": 4, "torch": 4})]  # fmt: skip


def evaluated(**changes):
    made = {"before": MOMENT, "after": MOMENT, "random": DRAWN, **changes}
    return list(eval_leaves_training_alone(Evaluated(PLAN, trace(), **made)))


def test_an_evaluation_that_changes_nothing():
    (same,) = evaluated(evaluated=trace())
    assert same.message.startswith("an evaluation after step 2: 0 of 6 states")
    assert same.message.endswith("after step 4 differ by up to 0 (up to 0 allowed)")
    (near,) = evaluated(evaluated=trace(), difference=1e-3, noise=1e-3)
    assert near.message.endswith("by up to 0.001 (up to 0.004 allowed)")
    (far,) = findings(evaluated(evaluated=trace(), difference=1e-2, noise=1e-3))
    assert (far.observed, far.where) == (1e-2, "the evaluation after step 2")


@pytest.mark.parametrize("name", sorted(set(MOMENT) & set(LEFT)))
def test_what_an_evaluation_leaves_changed(name):
    found = evaluated(evaluated=trace(), after={**MOMENT, name: OTHER[name]}, difference=1.0)
    (finding,) = findings(found)
    assert_yielded("loop.eval_leaves_training_alone", f"left {name}", [finding])


@pytest.mark.parametrize(
    ("random", "seeded"),
    [
        ([(DRAWN[0][0], {"python": 7, "torch": 2}), (DRAWN[1][0], {"python": 7, "torch": 4})],
         ["python"]),
        ([(DRAWN[0][0], {"python": 7, "torch": 8}), (DRAWN[1][0], {"python": 7, "torch": 8})],
         ["python", "torch"]),
        # Nothing was drawn in between, so that equal ends say nothing.
        ([DRAWN[0], (DRAWN[0][0], DRAWN[0][1])], []),
    ],
)  # fmt: skip
def test_an_evaluation_that_sets_a_seed(random, seeded):
    found = findings(evaluated(evaluated=trace(), random=random))
    assert [finding.observed for finding in found] == ([seeded] if seeded else [])
    if seeded:
        assert f"the random state of {' and '.join(seeded)} to" in found[0].headline


def test_an_evaluation_that_takes_rows_from_training():
    other = trace(batches={**trace().batches, 2: ["3a", "2b"], 3: ["2a", "3b"]})
    (finding,) = findings(evaluated(evaluated=other, difference=1.0))
    assert finding.where == "step 3"
    assert finding.headline.startswith("step 3 trains on other rows")


# --- learning, saving, reading -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "right"),
    [
        ([5.0, 0.4], True),
        ([5.0, 0.5], False),
        ([0.3, 5.0], True),
        ([5.0, math.nan, 0.4], True),
        ([math.nan], False),
        ([], False),
        ([-math.inf], False),
    ],
    ids=["below", "half", "first", "past_nan", "nan", "nothing", "infinite"],
)
def test_a_batch_is_learnt_below_half_of_the_best_constant(losses, right, request):
    seen = Overfit(1.0, 8, "examples", "AdamW", 0.01, losses)
    found = list(overfits_one_batch(seen))
    assert (not findings(found)) == right
    assert_yielded("loop.overfits_one_batch", f"learnt {request.node.callspec.id}", found)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"difference": 0.0}, None),
        ({"difference": 1.0}, "saved: a, b, c, d, e, f, g, h"),
        ({"difference": math.nan}, "saved: a, b, c, d, e, f, g, h"),
        ({"error": "loading raised OSError", "missing": ["x"]}, "saved: a, b, c, d, e, f, g, h"),
        ({"error": "nothing was written", "files": []}, "saved: nothing"),
        ({"missing": ["w", "x", "y", "z"], "difference": 1.0}, "w, x, y"),
    ],
    ids=["equal", "apart", "nan", "unloadable", "unwritten", "missing"],
)
def test_what_was_saved(changes, where, request):
    seen = Saved([*"abcdefghi"], noise=1e-7, size=2.0, dtype=torch.float32, rows=4)
    found = list(save_load_equal(replace(seen, **changes)))
    assert [finding.where for finding in findings(found)] == ([where] if where else [])
    assert_yielded("loop.save_load_equal", f"saved {request.node.callspec.id}", found)


SHUFFLED = [3, 1, 2, 0, 5, 4, 7, 6, 9, 8, 11, 10]


@pytest.mark.parametrize(
    ("read", "changes", "red"),
    [
        ([SHUFFLED, SHUFFLED[::-1]], {}, 0),
        ([SHUFFLED, [*SHUFFLED[:-1], 3]], {}, 1),
        ([[*SHUFFLED[:-1], 3], SHUFFLED], {}, 1),
        ([SHUFFLED[2:], SHUFFLED[3:]], {"drops_last": True}, 1),
        ([SHUFFLED[2:], SHUFFLED[1:]], {"drops_last": True}, 0),
        ([list(range(12)), SHUFFLED], {"strategy": "sequential"}, 0),
        # Nine rows fall alike more often than once in a million, ten do not.
        ([list(range(9))] * 2, {"rows": 9}, 0),
        ([list(range(10))] * 2, {"rows": 10}, 1),
        # As groups of answers to one prompt: each as often as any other.
        ([[k for k in SHUFFLED for _ in "ab"], [k for k in SHUFFLED[::-1] for _ in "ab"]], {}, 0),
        ([[k for k in SHUFFLED for _ in "ab"], [3, *(k for k in SHUFFLED for _ in "ab")]], {}, 1),
    ],
    ids=["right", "second", "first", "three", "two", "sequential", "nine", "ten", "groups", "once"],
)
def test_epochs(read, changes, red, request):
    made = {"rows": 12, "batch": 5, "drops_last": False, "sampler": "S", "strategy": "random"}
    found = list(epoch_covers_data(Epochs(read=read, **{**made, **changes})))
    assert len(findings(found)) == red
    assert_yielded("loop.epoch_covers_data", f"epochs {request.node.callspec.id}", found)


@pytest.mark.parametrize(
    ("count", "made", "red"),
    [
        (0, [], 0),
        (2, [[["a", "a"], ["a", "a"]], [["a", "a"], ["a", "a"]]], 0),
        (2, [[["a", "b"], ["c", "d"]], [["e", "f"], ["g", "h"]]], 0),
        (2, [[["a", "b"], ["a", "b"]], [["e", "f"], ["g", "h"]]], 1),
        (3, [[["a", "b"], ["a", "b"], ["c", "d"]], [["a", "b"], ["a", "b"], ["c", "d"]]], 2),
    ],
    ids=["none", "fixed", "right", "alike", "both"],
)
def test_workers(count, made, red, request):
    found = list(workers_do_not_repeat_random(None, Workers(count, made)))
    assert len(findings(found)) == red
    assert_yielded(
        "loop.workers_do_not_repeat_random", f"workers {request.node.callspec.id}", found
    )


def test_checkpoints_that_the_disk_has_no_room_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    model = torch.nn.Linear(1, 1, bias=False)
    pipeline = SimpleNamespace(model=model, trainer=None, optimizer=None, lr_scheduler=None)
    free = shutil.disk_usage(tmp_path).free
    # Two moments in float32 of the one weight, and the weight itself.
    saves = 2 * free // 12
    with pytest.raises(Skip) as skip, _folder(pipeline, saves):
        pass
    has, needs = (float(number) for number in re.findall(r"[0-9.]+(?= GiB|: set)", str(skip.value)))
    # Told to a tenth of a GiB, and others write to the disk meanwhile.
    assert has == pytest.approx(free / 2**30, rel=0.05, abs=0.05)
    assert needs == pytest.approx(2 * free / 2**30, rel=0.05, abs=0.05)
    assert not [*tmp_path.iterdir()]
