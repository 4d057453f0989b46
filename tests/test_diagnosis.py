"""How sure a diagnosis is of its cause, in words."""

from __future__ import annotations

import pytest

from trainsanity.engine.diagnosis import diagnose
from trainsanity.engine.registry import registry
from trainsanity.proofs import Proof, Proved
from trainsanity.types import Finding, Result, Status

TWELVE = "gradient_accumulation_steps = 12"

TRIED = {"proof": Proof(Proved.PROVED, "")}


def found(factor=None, *candidates, cause="why", **more):
    finding = Finding("wrong", factor=factor, cause=cause, candidates=candidates, **more)
    return Result(registry().get("TS502"), "p", Status.FAIL, (finding,))


def explained(code, factor):
    return Result(registry().get(code), "p", Status.BLOCKED, (Finding("slope", factor=factor),))


@pytest.mark.parametrize(
    ("results", "confidence"),
    [
        ([found(12.0, TWELVE)], f"good: only {TWELVE} fits"),
        (
            [found(12.03, TWELVE), explained("TS601", 12.0)],
            f"high: only {TWELVE} fits, and TS601 shows the same factor",
        ),
        (
            [found(12.0, TWELVE), *(explained(code, 12.0) for code in ("TS601", "TS602", "TS606"))],
            f"high: only {TWELVE} fits, and TS601, TS602 and TS606 show the same factor",
        ),
        ([found(12.0, TWELVE), explained("TS601", 3.0)], f"good: only {TWELVE} fits"),
        (
            [found(12.0, TWELVE, "num_labels = 12"), explained("TS601", 12.0)],
            "open between 2 that fit equally well",
        ),
        (
            [found(12.0, TWELVE, tested="b is ruled out"), explained("TS601", 12.0)],
            f"high: only {TWELVE} fits, and TS601 shows the same factor; b is ruled out",
        ),
        (
            [found(12.0, TWELVE, **TRIED)],
            f"good: only {TWELVE} fits; the fix is proved, by trying it",
        ),
        (
            [found(12.0, TWELVE, "num_labels = 12", **TRIED)],
            "the fix is proved, by trying it; why it was needed is concluded",
        ),
        ([found(1.88)], "likely: what is wrong was measured, why is concluded"),
        ([found()], "likely: what is wrong was measured, why is concluded"),
        ([found(7.0, cause=None)], "open: the factor 7.00 is no known quantity of the run"),
        ([found(cause=None)], "open: what is wrong was measured, the cause is not known"),
        ([], ""),
    ],
)
def test_confidence(results, confidence):
    assert diagnose(results).confidence == confidence


@pytest.mark.parametrize(
    ("results", "confidence"),
    [
        ([found(12.3, TWELVE)], f"likely: only {TWELVE} fits, which a log cannot prove"),
        ([found(12.3, TWELVE, "num_labels = 12")], "open between 2 that fit equally well"),
        ([found(12.3)], "open: a log shows that something is wrong, not why"),
    ],
)
def test_a_log_is_never_sure(results, confidence):
    assert diagnose(results, of_a_log=True).confidence == confidence
