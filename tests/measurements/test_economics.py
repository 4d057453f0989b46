"""What padding wastes over an epoch, against counting it, and the sentence made of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from statistics import mean

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.faults import healthy
from trainsanity.checks.collator.padding_overhead import _price, padding_overhead
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.padding import Padding, PaddingTimes, round_up
from trainsanity.measurements.data import economics as economics_of
from trainsanity.measurements.data.economics import (
    Economics,
    expected_waste,
    grouped_lengths,
    waste,
)
from trainsanity.pipeline import Pipeline
from trainsanity.types import Finding, Severity


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 8),
    st.sampled_from([1, 4, 8]),
)
def test_the_expected_waste_is_the_mean_over_all_batches(lengths, size, multiple):
    size = min(size, len(lengths))
    widths = [round_up(max(batch), multiple) for batch in combinations(lengths, size)]
    expected = 1 - mean(lengths) / mean(widths)
    found = expected_waste(numpy.bincount(lengths), size, multiple)
    assert found == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 7))
def test_the_waste_of_an_order_is_counted(lengths, size):
    batches = [lengths[k : k + size] for k in range(0, len(lengths), size)]
    positions = sum(len(batch) * round_up(max(batch), 8) for batch in batches)
    found = waste(numpy.array(lengths, numpy.int32), size, 8)
    assert found == pytest.approx(1 - sum(lengths) / positions)


def test_grouping_wastes_less_than_chance_and_no_less_than_sorting():
    lengths = numpy.random.default_rng(0).integers(20, 288, 4_000).astype(numpy.int32)
    grouped = waste(grouped_lengths(lengths, 48), 4, 1)
    chance = expected_waste(numpy.bincount(lengths), 4, 1)
    assert waste(numpy.sort(lengths), 4, 1) <= grouped < chance / 4
    assert sorted(grouped_lengths(lengths, 48)) == sorted(lengths)


def test_it_is_computed_from_all_rows_and_the_order_in_use():
    trainer = healthy()
    economics = Session.of(Pipeline.from_trainer(trainer)).measurements.get("economics")
    assert economics.counted == "300 rows"
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    assert economics.drawn[8] == expected_waste(numpy.bincount(lengths), 4, 8)
    assert economics.now is economics.drawn
    assert economics.least < economics.grouped[1] < economics.drawn[1]
    if hasattr(trainer.args, "train_sampling_strategy"):
        trainer.args.train_sampling_strategy = "group_by_length"
    else:
        trainer.args.group_by_length = True
    grouped = Session.of(Pipeline.from_trainer(trainer)).measurements.get("economics")
    assert grouped.now is grouped.grouped


def said(times, multiple=8, noise=0.0, **more):
    """What the check says of a batch of four rows, timed as given."""
    width = round_up(281, multiple or 1)
    waste = 1 - 0.87 * 281 / width
    padding = Padding(multiple, [281], [width], waste, 0.13, width / 281, {1: 0.13}, **more)
    table = {1: 0.130, 8: 0.141, 16: 0.150, 64: 0.249}
    grouped = {1: 0.011, 8: 0.024, 16: 0.036, 64: 0.12}
    if multiple == 2:
        table, grouped = {2: 0.134, **table}, {2: 0.015, **grouped}
    economics = Economics("2,988,208 rows", table, grouped, 0.003, by_length=False)
    return list(padding_overhead(padding, economics, PaddingTimes(times, noise)))


FAST = {1: 1.0, 8: 0.66, 16: 0.67, 64: 0.94}


def test_keep_what_is_faster():
    assert said(FAST)[0].message == (
        "keep 8: +1.1 points of padding, 0.66 x the step time (2,988,208 rows drawn at random: "
        "waste none 13.0%, 8 14.1%, 16 15.0%, 64 24.9%; grouped by length 2.4%)"
    )


def test_a_multiple_of_two_is_one_of_the_multiples():
    message = said({**FAST, 2: 0.8}, multiple=2)[-1].message
    assert message.startswith("keep 2: ")
    assert "0.80 x the step time" in message


def test_of_many_rows_a_part_is_grouped(monkeypatch):
    monkeypatch.setattr(economics_of, "GROUPED", 50)
    trainer = healthy()
    seen = Session.of(Pipeline.from_trainer(trainer)).measurements.get("economics")
    step = 4 * trainer.args.gradient_accumulation_steps
    lengths = numpy.array([len(ids) for ids in trainer.train_dataset["input_ids"]], numpy.int32)
    # Every sixth of 300 rows, and all of them for what is exact.
    assert seen.grouped[8] == waste(grouped_lengths(lengths[::6], step), 4, 8)
    assert seen.least == waste(numpy.sort(lengths), 4, 1)


def test_take_what_is_faster():
    assert said(FAST, multiple=None)[0].message.startswith(
        "take 8: +1.1 points of padding, 0.66 x the step time"
    )


def test_no_advice_within_the_noise():
    noisy = said(FAST, noise=0.5)[0].message
    assert noisy.startswith("8: +1.1 points of padding, 0.66 x the step time")
    message = said(FAST, multiple=None, noise=0.5)[0].message
    assert message.startswith("no multiple: 13.0% of the positions")


def test_without_a_gpu_there_is_no_time():
    assert said({})[0].message.startswith("8: +1.1 points of padding (2,988,208 rows")


@pytest.mark.parametrize("multiple", [None, 8, 64])
def test_the_ratio_is_of_times(multiple):
    seen = said({1: 2.0, 8: 1.5, 16: 1.6, 64: 3.0}, multiple)[-1].observed
    assert seen["time_ratio"] == {None: 1.0, 8: 0.75, 64: 1.5}[multiple]


@pytest.mark.parametrize(("ratio", "findings"), [(1.0301, 0), (1.0504, 0), (1.0505, 1)])
def test_how_much_slower_a_multiple_may_be(ratio, findings):
    # The first was timed on an H100: every position attended, 280 wide against 279.
    seen = said({1: 1.0, 8: ratio, 16: 1.05, 64: 1.15})
    assert len(seen) == 1 + findings
    assert seen[0].expected == {"time_ratio_at_most": round((288 / 281) ** 2, 4)}


def test_the_price_of_a_fixed_width_is_its_own():
    fixed = {"widths": [512], "waste": 0.52, "least_waste": 0.13, "table": {1: 0.13, 8: 0.14}}
    padding = Padding(**{"multiple": 8, "longest": [281], "stretch": 1.8, **fixed})
    economics = Economics("8 rows", {1: 0.1, 8: 0.2}, {1: 0.1, 8: 0.2}, 0.0, by_length=False)
    ratios = {8: 0.7}
    assert _price(padding, economics, 8, {}) == "+39.0 points of padding"
    assert _price(padding, economics, 8, ratios) == "+39.0 points of padding, 0.70 x the step time"
    # Nor does one that is narrower than the longest row follow it.
    narrow = replace(padding, widths=[256])
    assert _price(narrow, economics, 8, {}) == "+39.0 points of padding"
    # What another multiple would cost is computed.
    other = replace(padding, multiple=None)
    assert _price(other, economics, 8, {}) == "+1.0 points of padding"


def test_a_multiple_of_eight_is_no_waste_on_short_rows():
    """LLaMA-Factory pads to a multiple of 8; 9 tokens are 16 then, and cannot be fewer."""
    widths = {"waste": 0.5, "least_waste": 0.1, "table": {1: 0.1, 8: 0.5, 24: 0.7}}
    table = widths["table"]
    economics = Economics("8 rows", table, table, 0.0, by_length=False)

    def findings(width, multiple):
        found = Padding(multiple, [9], [width], **widths, stretch=width / 9, aligned=16 / 9)
        said = list(padding_overhead(found, economics, PaddingTimes()))
        return [one for one in said if isinstance(one, Finding)]

    assert not findings(16, 8)
    assert findings(24, 24)
    stored = Padding(None, [9], [64], **widths, stretch=64 / 9, aligned=16 / 9, stored=True)
    finding, _ = padding_overhead(stored, economics, PaddingTimes())
    assert finding.severity is Severity.WARNING
    assert finding.where == "the rows of the dataset"


def test_nan_never_passes():
    assert isinstance(said({**FAST, 8: float("nan")})[0], Finding)
    assert isinstance(said(FAST, noise=float("nan"))[0], Finding)
    assert isinstance(said(FAST, noise=float("inf"))[0], Finding)


def test_packed_rows_are_not_advised():
    message = said({}, multiple=None, packed=True)[0].message
    assert message.startswith("rows are packed: 13.0% of the positions are padding (padded they")
