"""Cases are cut from the user's rows; a fault is shrunk to its smallest, and nothing is written."""

from __future__ import annotations

from fixtures.faults import healthy
from trainsanity.engine.session import Session
from trainsanity.measurements.batches.strategies import EXAMPLES, Case, cases, per_token, smallest
from trainsanity.pipeline import Pipeline

END = 9
ROWS = [
    {"input_ids": [5, 6, 7, END], "attention_mask": [1, 1, 1, 1], "label": 3},
    {"input_ids": [8, 4], "attention_mask": [1, 1], "label": 2},
]


def lengths(case):
    return [len(row["input_ids"]) for row in case.rows]


def drawn(strategy):
    seen = []
    assert smallest(strategy, seen.append) is None
    assert seen
    return seen


def test_pieces_keep_their_columns_and_their_label():
    label_of = {token: row["label"] for row in ROWS for token in row["input_ids"]}
    for case in drawn(cases(ROWS, end=END)):
        for row in case.rows:
            assert len(row["attention_mask"]) == len(row["input_ids"])
            assert {label_of[token] for token in row["input_ids"]} == {row["label"]}
            # The end stays at the end, and never alone.
            assert END not in row["input_ids"][:-1]
            assert row["input_ids"] != [END]
    assert any(
        row["input_ids"][-1] == END for case in drawn(cases(ROWS, end=END)) for row in case.rows
    )


def test_the_shapes_in_which_padding_goes_wrong_are_drawn():
    settings = {"padding_side": ["right", "left"], "pad_to_multiple_of": [8, None]}
    seen = drawn(cases(ROWS, settings))
    assert any(len(case.rows) == 1 for case in seen)
    assert any(len(case.rows) > 1 and len(set(lengths(case))) == 1 for case in seen)
    assert any(len(set(lengths(case))) > 1 for case in seen)
    assert any(
        max(lengths(case)) % 8 == 0 for case in seen if case.settings["pad_to_multiple_of"] == 8
    )
    assert {case.settings["padding_side"] for case in seen} == {"right", "left"}


def test_rows_that_cannot_be_cut_are_given_whole():
    assert all(row in ROWS for case in drawn(cases(ROWS, whole=True)) for row in case.rows)


MARKED = [
    {"input_ids": [1, 2, 3, 77, 4, 5, END], "attention_mask": [1] * 7},
    {"input_ids": [6, 77, 8], "attention_mask": [1] * 3},
]


def test_pieces_keep_the_markers_that_a_collator_may_look_for():
    for ragged in (True, False):
        seen = drawn(cases(MARKED, end=END, markers={77}, ragged=ragged, max_length=7))
        for case in seen:
            assert ragged or len(set(lengths(case))) == 1
            for row in case.rows:
                assert row["input_ids"].count(77) == 1
                # Something stands behind it that can be learnt.
                assert row["input_ids"][-1] != 77
                assert len(row["attention_mask"]) == len(row["input_ids"])
        assert len({tuple(map(str, case.rows)) for case in seen}) > 5


def test_rows_of_one_length_where_nothing_pads():
    assert all(len(set(lengths(case))) == 1 for case in drawn(cases(ROWS, ragged=False)))


def test_a_column_is_per_token_in_all_rows_or_not_at_all():
    assert per_token(ROWS) == {"input_ids", "attention_mask"}
    assert per_token(
        [{"input_ids": [1, 2], "labels": [0.0, 1.0]}, {"input_ids": [1], "labels": [1.0, 0.0]}]
    ) == {"input_ids"}


def test_the_smallest_case_is_found_again_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def broken(case):
        return str(lengths(case)) if len(set(lengths(case))) > 1 else None

    said = [smallest(cases(ROWS), broken) for _ in range(2)]
    assert said[0] == said[1]
    case, objection = said[0]
    assert objection in ("[1, 2]", "[2, 1]")
    assert lengths(case) in ([1, 2], [2, 1])
    assert not list(tmp_path.iterdir())


def test_what_remembers_earlier_examples_is_caught_once():
    seen = []

    def broken(case):
        seen.append(case)
        return "the tenth" if len(seen) == 10 else None

    assert smallest(cases(ROWS), broken) == (seen[9], "the tenth")


def test_a_long_case_is_told_by_its_lengths():
    rows = [{"input_ids": list(range(30))}, {"input_ids": [1]}]
    assert str(Case(rows, {"padding_side": "left"})) == "rows of 30, 1 tokens, padding_side='left'"


def test_a_search_begins_with_the_cases_that_are_drawn_for_all_checks():
    pipeline = Pipeline.from_trainer(healthy())
    asked = Session.of(pipeline).measurements.get("drawn")
    assert len(asked.cases) == EXAMPLES
    assert {case.settings["padding_side"] for case in asked.cases} == {"right", "left"}
    for stop in (len(asked.cases), 7):
        tried = []

        def broken(case, tried=tried, stop=stop):
            tried.append(case)
            return "enough" if len(tried) == stop else None

        smallest(asked.strategy(asked.settings), broken)
        assert tried[:stop] == asked.cases[:stop]
