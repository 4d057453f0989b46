"""What the checks say without a mutant: words, numbers and computed values, to compare with.

The numbers are the tool's own, so they prove nothing by themselves; a mutant that changes one of
them has been noticed.  The run without a mutant writes them (:data:`SWITCH`).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainsanity.types import Result, Status

SWITCH = "TRAINSANITY_MUTATION_RECORDS"
FOLDER = Path(__file__).parent / "said"
NOISE = 1e-4
"""Differences below are arithmetic: what is there depends on threads and processor."""
CLOSE = 5e-3
"""Relative: two processors sum in another order, and a run of steps carries that on."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
PLACES = re.compile(r"(?<!\S)/\S+")


def assert_as_recorded(name: str, results: Iterable[Result]) -> None:
    """Compare with what was recorded under this name, or write it."""
    path = FOLDER / f"{name}.json"
    said = {result.check.code: _told(result) for result in results if _has_said(result)}
    if os.environ.get(SWITCH):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(said))
    differences = [
        f"{code}: recorded {old}\n  now {again.get(code)}"
        for code, old in recorded.items()
        if not _alike(old, again.get(code))
    ]
    differences += [f"{code}: not recorded" for code in again.keys() - recorded.keys()]
    assert not differences, "\n".join(differences)


def _has_said(result: Result) -> bool:
    return result.status in (Status.PASS, Status.FAIL) or bool(result.findings)


def _told(result: Result) -> dict[str, Any]:
    row = result.as_dict()
    kept = ("status", "message", "observed", "expected", "factor", "where")
    return {key: _rounded(row[key]) for key in kept if row[key] is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {_rounded(str(key)): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return PLACES.sub("…", value) if isinstance(value, str) else value


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool) or old is None or new is None:
        return old is new
    if isinstance(old, int | float) and isinstance(new, int | float):
        if math.isnan(old) or math.isnan(new):
            return math.isnan(old) and math.isnan(new)
        return math.isclose(old, new, rel_tol=CLOSE, abs_tol=NOISE)
    if isinstance(old, str) and isinstance(new, str):
        numbers = [[_number(text) for text in NUMBER.findall(side)] for side in (old, new)]
        return NUMBER.sub("#", old) == NUMBER.sub("#", new) and _alike(*numbers)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_alike, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_alike(old[key], new[key]) for key in old)
    return bool(old == new)


def _number(text: str) -> float:
    return float(text.replace(",", ""))
