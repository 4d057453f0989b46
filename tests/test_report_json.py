"""The report as JSON: schema 2, every value, every finding."""

from __future__ import annotations

import json
import math
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports import (
    HEALTHY,
    INCIDENT,
    LOSS,
    PAD,
    REPORTS,
    SAME_TOKEN,
    SKIP,
    TARGET,
    TWELVE,
    failed,
    passed,
    report,
    under,
)
from trainsanity import Finding, Result, Status, __version__
from trainsanity.report.json import as_dict, dumps, json_value, schema
from trainsanity.report.text import render
from trainsanity.types import STAGES

RESULT_KEYS = ["code", "name", "stage", "status", "observed", "expected", "factor", "message"]
RESULT_KEYS += [
    "measured",
    "findings",
    "cause",
    "fix",
    "where",
    "candidates",
    "reason",
    "blocked_by",
    "seconds",
    "url",
]


RULED_OUT = {
    "PAD / EOS": [
        "PAD 151643 is not EOS 151645",
        "48 of 48 rows are read at their last token",
    ],
    "attention mask": ["10281 of 11776 positions are attended, the rows have 10281 tokens"],
}


def test_json_is_schema_2() -> None:
    document = json.loads(dumps([INCIDENT]))
    assert document["schema"] == 2
    assert document["trainsanity"] == __version__
    assert document["pipeline"] == TARGET
    assert document["environment"]["device"] == "NVIDIA H100"
    assert document["facts"]["parameters"] == 9815936
    assert [list(row) for row in document["results"]] == [RESULT_KEYS] * 8
    loss = next(row for row in document["results"] if row["code"] == "TS502")
    assert loss["status"] == "fail"
    assert loss["observed"] == TWELVE.observed
    assert loss["factor"] == TWELVE.factor
    assert loss["fix"] == TWELVE.fix
    assert loss["candidates"] == list(TWELVE.candidates)
    assert document["summary"] == {
        "ran": 5,
        "of": 9,
        "pass": 3,
        "warning": 0,
        "fail": 2,
        "xfail": 0,
        "xpass": 0,
        "skip": 0,
        "blocked": 2,
        "abstain": 0,
        "error": 1,
        "first_broken_stage": "loss",
        "confidence": "high: only gradient_accumulation_steps = 12 fits, and "
        "TS601 shows the same factor",
        "not_judged": [],
        "ruled_out": RULED_OUT,
        "acquitted": RULED_OUT,
        "exit_code": 1,
        "seconds": 12.34,
    }


SCHEMA_1 = {
    "ran", "of", "pass", "fail", "xfail", "xpass", "skip", "blocked", "abstain", "error",
    "first_broken_stage", "confidence", "acquitted", "exit_code", "seconds",
}  # fmt: skip


def test_all_keys_of_schema_1_are_kept() -> None:
    document = as_dict(INCIDENT)
    assert set(document["summary"]) >= SCHEMA_1
    assert set(RESULT_KEYS) - {"measured", "findings"} <= set(document["results"][0])


def test_every_finding_is_kept_with_its_cause_and_fix() -> None:
    two = Result(PAD, TARGET, Status.FAIL, (Finding("first", cause="a", fix="b"), SAME_TOKEN))
    (row,) = as_dict(report(two))["results"]
    assert [(f["severity"], f["cause"], f["fix"]) for f in row["findings"]] == [
        ("failure", "a", "b"),
        ("warning", SAME_TOKEN.cause, SAME_TOKEN.fix),
    ]
    assert (row["cause"], row["fix"]) == ("a", "b")


SCHEMA = jsonschema.Draft202012Validator(schema())


def strict(part: Any) -> Any:
    """The schema with nothing allowed that it does not name: a key without a word is forgotten."""
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    closed = {key: strict(value) for key, value in part.items()}
    return {"additionalProperties": False, **closed} if "properties" in part else closed


def test_the_schema_names_every_key_stage_and_status() -> None:
    SCHEMA.check_schema(schema())
    for told in REPORTS.values():
        jsonschema.validate(as_dict(told), strict(schema()))
    assert schema()["$defs"]["stage"]["enum"] == list(STAGES)
    assert schema()["$defs"]["status"]["enum"] == [str(status) for status in Status]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(schema=1),
        lambda d: d.pop("facts"),
        lambda d: d["summary"].pop("error"),
        lambda d: d["summary"].update(exit_code=4),
        lambda d: d["results"][0].update(status="passed"),
        lambda d: d["results"][0].update(factor="twelve"),
        lambda d: d["results"][0].update(code=502),
        lambda d: d["results"][5]["findings"][0].update(severity="grave"),
        lambda d: d["results"][5]["findings"][0].pop("fix"),
        lambda d: d["summary"].update(not_judged=["everything"]),
    ],
)
def test_the_schema_refuses_what_is_no_report(change: Any) -> None:
    document = as_dict(INCIDENT)
    assert SCHEMA.is_valid(document)
    change(document)
    assert not SCHEMA.is_valid(document)


def test_json_exit_code_is_that_of_strict_when_asked() -> None:
    told = report(passed(PAD), SKIP)
    assert as_dict(told)["summary"]["exit_code"] == 0
    assert as_dict(under(told, strict=True))["summary"]["exit_code"] == 3


def test_json_of_several_pipelines_is_a_list() -> None:
    documents = json.loads(dumps([INCIDENT, HEALTHY]))
    assert [document["summary"]["fail"] for document in documents] == [2, 0]
    SCHEMA.validate(documents)


class Size(IntEnum):
    LARGE = 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        ({1: (math.nan, 2)}, {"1": ["nan", 2]}),
        (Size.LARGE, 3),
        (Status.FAIL, "fail"),
        (Fraction(1, 2), 0.5),
        ({"b", "a"}, ["a", "b"]),
        (Path("a"), "a"),
        (True, True),
        (None, None),
    ],
)
def test_json_values(value: Any, expected: Any) -> None:
    converted = json_value(value)
    assert converted == expected
    assert type(converted) is type(expected) or isinstance(converted, str)


def test_numpy_numbers_stay_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert json_value([numpy.float32(0.5), numpy.int64(3), numpy.float64("nan")]) == [0.5, 3, "nan"]


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_VALUES = st.recursive(
    _LEAVES | st.complex_numbers() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(_LEAVES, inner) | st.tuples(inner),
    max_leaves=10,
)


@given(_VALUES)
def test_any_value_makes_json_without_nan(value: Any) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    finding = Finding("found", observed=value)
    told = report(failed(LOSS, finding))
    SCHEMA.validate(json.loads(dumps([told]), parse_constant=refuse))
    render(told)
