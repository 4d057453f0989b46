"""Checks of several processes: which rows each reads, and whether their weights are equal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.controls import all_controls
from fixtures.controls.factories import CHEAP
from fixtures.faults import healthy
from trainsanity.checks.loop.ranks_evaluate_together import ranks_evaluate_together
from trainsanity.checks.loop.ranks_hold_equal_weights import ranks_hold_equal_weights
from trainsanity.checks.loop.ranks_share_the_data import ranks_share_the_data
from trainsanity.engine.session import Session
from trainsanity.measurements.runs.evaluated_together import EvaluatedTogether
from trainsanity.measurements.runs.shares import PEEK, Shares, _by_group
from trainsanity.measurements.step.steps import Recording
from trainsanity.pipeline import Pipeline
from trainsanity.testing import run_one
from trainsanity.types import Finding, Severity, Skip, Status

CONTROLS = {control.id: control for control in all_controls()}


def judged_shares(read, rows=12, batch=8, drops_last=False, same=True):
    seen = Shares([] if rows is None else [rows] * len(read), same, read, batch, drops_last)
    return list(ranks_share_the_data(seen))


def shared(*args, **kwargs):
    return [f.headline for f in judged_shares(*args, **kwargs) if isinstance(f, Finding)]


def test_rows_that_processes_share():
    # Twelve rows in rounds of eight: the second round is filled up with the first four rows.
    filled_up = [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 0, 1, 2, 3]]
    (seen,) = judged_shares(filled_up)
    assert seen.message == "2 processes read 8 + 8 of 12 rows; read by several: 4, by no process: 0"
    assert (seen.observed, seen.expected) == ({"several": 4, "none": 0}, {"several": 4, "none": 0})
    assert shared([filled_up[0], [*filled_up[1][:-1], 8]]) == []  # one more would be too many
    assert shared([filled_up[0], [*filled_up[1], 8]]) == [
        "5 of 12 rows are read by more than one of 2 processes"
    ]
    # What does not fill a round may be left out: four rows of twelve, and none of sixteen.
    (seen,) = judged_shares([[0, 1, 2, 3], [4, 5, 6, 7]], drops_last=True)
    assert seen.expected == {"several": 4, "none": 4}
    assert shared([[0, 1, 2], [4, 5, 6, 7]], drops_last=True)
    assert shared([[0, 1, 2, 3], [4, 5, 6, 7]], rows=16, drops_last=True)


def test_rows_that_no_process_reads_or_every_one():
    missing = judged_shares([[0, 1, 2, 3], [5, 6, 7, 8]])[0]
    assert missing.headline == "4 of 12 rows are read by none of 2 processes"
    assert (missing.observed, missing.expected, missing.where) == (4, 0, "row 4")
    assert missing.factor == 8 / 12
    twice = judged_shares([list(range(12))] * 3)[0]
    assert twice.headline == "12 of 12 rows are read by more than one of 3 processes"
    assert (twice.observed, twice.expected, twice.where, twice.factor) == (12, 4, "row 0", 3.0)


def test_datasets_that_processes_have_of_their_own():
    (seen,) = judged_shares([list(range(12))] * 2, same=False)
    assert seen.message == (
        "2 processes hold datasets of their own, of 12 and 12 rows, and read 12 and 12"
    )
    assert (seen.observed, seen.expected) == ([0, 0], [0, 0])
    half = judged_shares([list(range(12)), list(range(6)), []], same=False)[0]
    assert half.headline == (
        "process 1 has a dataset of its own and reads 6 of its 12 rows: no process reads the others"
    )
    assert (half.observed, half.expected, half.where, half.factor) == (6, 0, "process 1", 0.5)
    whole_rounds = [list(range(8)), list(range(4, 12))]
    assert shared(whole_rounds, same=False, drops_last=True) == []
    assert shared([list(range(8)), list(range(7))], same=False, drops_last=True)


def test_streams_that_processes_share():
    (seen,) = judged_shares([[1, 2, 3, 4], [5, 6, 7, 1]], rows=None)
    assert seen.message == "the first 4 rows of a stream: processes share at most 25% of theirs"
    assert seen.observed == 0.25
    assert shared([[1, 2, 3, 4], [1, 2, 7, 8]], rows=None) == []  # a half, and no more
    again = judged_shares([[1, 2, 3], [3, 4, 5], [1, 2, 9]], rows=None)[0]
    assert again.headline == (
        "67% of the first rows that process 2 reads are read by process 0, too: the stream is "
        "not divided"
    )
    assert (again.observed, again.where) == (2 / 3, "process 2")


def test_one_process_reads_all_rows_and_the_start_of_a_stream():
    trainer = healthy(rows=13, per_device_train_batch_size=3)
    trainer.args.max_steps, trainer.args.num_train_epochs = -1, 1
    seen = Session.of(Pipeline.from_trainer(trainer)).measurements.get("shares")
    (places,) = seen.read
    assert sorted(places) == list(range(13))
    assert (seen.rows, seen.same, seen.batch, seen.drops_last) == ([13], True, 3, False)
    assert not seen.stream
    streaming = Pipeline.from_trainer(CONTROLS["streaming"].build())
    stream = Session.of(streaming).measurements.get("shares")
    (hashes,) = stream.read
    assert stream.stream
    # The rows of as many batches as are looked at, told apart and without a sign.
    assert len(set(hashes)) == len(hashes) == PEEK * stream.batch
    assert all(0 <= number < 2**63 for number in hashes)


def test_weights_that_differ_between_processes():
    same = {"a": 1, "b": 2}
    (measured,) = ranks_hold_equal_weights(Recording(held={"at first": [same, same]}))
    assert measured.message == "0 of 2 parameters differ between 2 processes (at first)"
    held = {"at first": [same, same], "then": [same, {"a": 1, "b": 3}]}
    finding, measured = ranks_hold_equal_weights(Recording(held=held))
    assert (finding.observed, finding.where) == (1, "b")
    assert measured.message == "1 of 2 parameters differ between 2 processes (at first, then)"


def test_parts_of_weights_are_not_held_against_each_other():
    with pytest.raises(Skip, match="all 3 parameters are sharded"):
        list(ranks_hold_equal_weights(Recording(held={"now": [{}, {}]}, sharded=3)))


def test_one_process_says_that_it_is_alone():
    result = run_one("loop.ranks_hold_equal_weights", Pipeline.from_trainer(healthy(**CHEAP)))
    assert result.status is Status.SKIP
    assert result.reason == "this pipeline has no other processes"


def test_a_second_epoch_in_the_order_of_the_first():
    shares = Shares([12, 12], True, [[0, 2, 4], [1, 3, 5]], 4, True, [3, 3])
    finding = list(ranks_share_the_data(shares))[-2]
    assert finding.headline == (
        "a second epoch begins with the 3 rows of the first in the same order, though the sampler "
        "shuffles: it is not told the epoch"
    )


def test_processes_of_a_group_that_read_other_rows_are_told():
    read = [[0, 1], [0, 1], [2, 3], [3, 2]]
    firsts, apart = _by_group(read, 2)
    assert (firsts, apart) == ([[0, 1], [2, 3]], (3,))
    shares = Shares([4, 4], True, firsts, 4, False, group=2, apart=apart)
    (finding,) = (one for one in ranks_share_the_data(shares) if isinstance(one, Finding))
    assert finding.headline.startswith("process 3 reads other rows than process 2")


def judged_evaluation(*together, alone=1.0, one_more=1.0, other=3.0, repeated=0.3):
    seen = EvaluatedTogether("eval_loss", 9, alone, one_more, other, [*together], repeated)
    *findings, measured = ranks_evaluate_together(seen)
    assert measured.expected == pytest.approx(1.2)  # (9 x 1 + 3) / 10
    return [(f.severity, f.factor, f.cause.partition(":")[0]) for f in findings]


def test_rows_that_processes_evaluate():
    assert judged_evaluation(1.2, 1.2) == []
    assert judged_evaluation(1.2) == []  # the first alone returns something
    assert judged_evaluation() == []
    # Ten rows filled up to eighteen: 1 + 2 / 18.
    repeats = "rows that were repeated to fill up the last round are counted"
    [light] = judged_evaluation(1 + 2 / 18, 1 + 2 / 18)
    assert light == (Severity.FAILURE, pytest.approx(10 / 18), repeats)
    [few] = judged_evaluation(1 + 2 / 18, 1 + 2 / 18, repeated=0.001)
    assert few == (Severity.WARNING, pytest.approx(10 / 18), repeats)
    [heavy] = judged_evaluation(2.0, 2.0)  # the mean of a full batch and of the row alone
    unequal = "the means of batches of unequal size are averaged"
    assert heavy == (Severity.WARNING, pytest.approx(5), unequal)
    [(severity, _, cause)] = judged_evaluation(1.0, 1.4)
    assert (severity, cause) == (
        Severity.FAILURE,
        "each process evaluates its own share of the rows, and nothing is gathered",
    )


def test_what_shapes_and_rounding_make_of_an_evaluation_is_allowed():
    assert judged_evaluation(1.21, 1.21, one_more=1.003) == []
    exact = EvaluatedTogether("eval_loss", 9, 1.0, 1.0, 3.0, [], 0.0)
    assert 1e-4 < exact.allowed < 1.3e-4  # all of them are rounded to four digits
    assert replace(exact, other=3.00001).allowed < 3e-5
    assert exact.told_apart
    assert not replace(exact, other=1.01).told_apart
