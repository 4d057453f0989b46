"""What the checks say of faults and controls, word for word, as it was when somebody read it last.

A message that changes, a number that moves, a check that looks away: each shows up as a difference
in `tests/snapshots/said`, to be read and kept with UPDATE_SNAPSHOTS=1, or to be mended.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch

from trainsanity.engine.store import Measurements
from trainsanity.types import Finding, Measured, Result, Skip

FOLDER = Path(__file__).parent / "snapshots" / "said"
VERSIONS = FOLDER / "versions.json"
"""Of the libraries with which the numbers were computed."""
NOISE = 1e-4
"""Differences below are arithmetic: what is there depends on threads and processor.  Chosen, like
the next one, and not measured: runs with one thread and in two workers stay within both."""
CLOSE = 5e-3
"""Relative: two processors sum in another order, and a run of steps carries that on."""
FIRST = 6
"""Of a list or dictionary in a measurement."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
PLACES = re.compile(r"(?<!\S)/\S+")


def assert_said(name: str, results: Iterable[Result]) -> None:
    """Compare with what was said under this name, or with UPDATE_SNAPSHOTS write it."""
    _compare(name, {result.check.code: _told(result) for result in results})


def assert_measured(name: str, measurements: Measurements) -> None:
    """Likewise what was measured, but for the rows that this version of Hypothesis made up."""
    looks = measurements.seconds.keys() - {"drawn"}
    _compare(name, {look: _measured(measurements, look) for look in looks})


def assert_found(name: str, seen: Iterable[Measured | Finding]) -> None:
    """Likewise what one check yields."""
    _compare(name, {str(number): _figures(one) for number, one in enumerate(seen)})


def _measured(measurements: Measurements, look: str) -> Any:
    try:
        return _figures(measurements.taken(look))
    except Skip as skip:
        return str(skip)


def versions() -> dict[str, str]:
    """Of what computes the numbers and lends the words: others may compute and say otherwise."""
    return {name: version(name) for name in ("torch", "transformers")}


def recorded_with() -> dict[str, str]:
    """The versions with which it was written; with others nothing is compared."""
    found: dict[str, str] = json.loads(VERSIONS.read_text(encoding="utf-8"))
    return found


def _compare(name: str, said: dict[str, Any]) -> None:
    path = FOLDER / f"{name}.json"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        VERSIONS.write_text(json.dumps(versions()) + "\n", encoding="utf-8")
        rows = ",\n".join(
            f"{json.dumps(code)}: {json.dumps(row, ensure_ascii=False)}"
            for code, row in sorted(said.items())
        )
        path.write_text("{\n" + rows + "\n}\n", encoding="utf-8")
    if versions() == recorded_with():
        recorded = json.loads(path.read_text(encoding="utf-8"))
        found = [*differences(recorded, json.loads(json.dumps(said)), name)]
        assert not found, "\n".join(found)


def _told(result: Result) -> dict[str, Any]:
    row = result.as_dict()
    kept = (
        *("status", "message", "reason", "observed", "expected", "factor", "where"),
        *("cause", "fix", "candidates"),
    )
    return {key: _rounded(row[key]) for key in kept if row[key] not in (None, "", [])}


def _figures(value: Any) -> Any:
    """Numbers and words of a measurement; of tensors and of long lists what is telling."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, numpy.ndarray | numpy.generic):
        shape = list(value.shape)
        if not value.size or value.dtype.kind not in "biuf":
            return [shape, str(value.dtype)]
        return _rounded([shape, *map(float, (value.min(), value.max(), abs(value).mean()))])
    if dataclasses.is_dataclass(value):
        return {
            one.name: _figures(getattr(value, one.name))
            for one in dataclasses.fields(value)
            # States are long, and times and memory are the machine's.
            if not one.name.endswith(("state", "seconds", "bytes"))
        }
    if isinstance(value, Mapping):
        shown = {_rounded(str(key)): _figures(value[key]) for key in list(value)[:FIRST]}
        return {"": len(value), **shown} if len(value) > FIRST else shown
    if isinstance(value, list | tuple):
        shown = [_figures(item) for item in value[:FIRST]]
        return [len(value), *shown] if len(value) > FIRST else shown
    if value is None or isinstance(value, bool | int | float | str):
        return _rounded(value)
    return type(value).__name__


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {_rounded(str(key)): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return PLACES.sub("…", value) if isinstance(value, str) else value


def differences(old: Any, new: Any, place: str) -> Iterator[str]:
    """One line for each place at which two documents differ by more than arithmetic."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{place}, {key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for k, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{place}, {k}")
    elif not _alike(old, new):
        yield f"{place}: it was {old!r} and is {new!r}"


def _alike(old: Any, new: Any) -> bool:
    if isinstance(old, bool) or isinstance(new, bool) or old is None or new is None:
        return old is new
    if isinstance(old, int | float) and isinstance(new, int | float):
        if math.isnan(old) or math.isnan(new):
            return math.isnan(old) and math.isnan(new)
        return math.isclose(old, new, rel_tol=CLOSE, abs_tol=NOISE)
    if isinstance(old, str) and isinstance(new, str):
        found = [[_number(text) for text in NUMBER.findall(side)] for side in (old, new)]
        return NUMBER.sub("#", old) == NUMBER.sub("#", new) and all(
            _alike(*pair) for pair in zip(*found, strict=True)
        )
    return bool(old == new)


def _number(text: str) -> float:
    return float(text.replace(",", ""))
