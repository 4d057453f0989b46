"""What each check reports, compared with what it reported when somebody read it last.

`tests/snapshots/checks` has one file for each check: its results on the faults that it catches and
at its bounds, and the controls and faults on which it neither passes nor fails. A message that
changes, or a number that moves, shows up as a difference there, to be read and kept with
UPDATE_SNAPSHOTS=1, or to be mended. An entry holds for the versions of torch and transformers that
it names; with others, whose numbers differ, it is not compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock

from trainsanity.types import Finding, Measured, Result, Status

FOLDER = Path(__file__).parent / "snapshots" / "checks"
NOISE = 1e-4
"""Differences below are arithmetic: they depend on threads and processor.  Chosen, like the next
one, and not measured: runs with one thread and in two workers stay within both."""
CLOSE = 5e-3
"""Relative: two processors sum in another order, and a run of steps carries that on."""
FIRST = 6
"""Elements of a list or dictionary that are kept."""
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
PLACES = re.compile(r"(?<!\S)/\S+")
STATUSES = "statuses"
WRITTEN_WITH = "statuses written with"
"""The entry that is no report: control or fault to status."""
UNUSUAL = (Status.SKIP, Status.ABSTAIN, Status.WARNING, Status.BLOCKED)
KEPT = ("status", "measured", "reason", "observed", "expected", "findings")


def assert_results(of: str, results: Iterable[Result]) -> None:
    """Compare each result with its check's snapshot under this name, or write it."""
    for result in results:
        row = {key: value for key, value in result.as_dict().items() if key in KEPT}
        row["findings"] = [
            {key: value for key, value in found.items() if value not in (None, "", [])}
            for found in row["findings"]
        ]
        kept = {key: value for key, value in row.items() if value not in (None, "", [])}
        _compare(result.check.name, of, _rounded(kept))


def assert_statuses(of: str, results: Iterable[Result]) -> None:
    """Compare which checks skip, abstain, warn or are blocked on a pipeline, or write it."""
    found = {r.check.name: str(r.status) for r in results if r.status in UNUSUAL}
    asked = {r.check.name for r in results}
    if os.environ.get("UPDATE_SNAPSHOTS"):
        for check in asked:
            _write_status(check, of, found.get(check))
    recorded = {check: status for check, status in statuses_of(of).items() if check in asked}
    # What skips depends on the versions, too; those are written beside the statuses.
    if all(entries(check).get(WRITTEN_WITH, versions()) == versions() for check in asked):
        assert found == recorded


def statuses_of(of: str) -> dict[str, str]:
    """Return the checks that neither pass nor fail on a pipeline, with how they end there."""
    ended = {}
    for path in FOLDER.glob("*.json"):
        status = entries(path.stem).get(STATUSES, {}).get(of)
        if status is not None:
            ended[path.stem] = str(status)
    return ended


def _write_status(check: str, of: str, status: str | None) -> None:
    with _locked(check) as document:
        statuses = document.get(STATUSES, {})
        statuses.pop(of, None)
        document[STATUSES] = dict(sorted((statuses | ({of: status} if status else {})).items()))
        document[WRITTEN_WITH] = versions()


def assert_yielded(check: str, of: str, items: Iterable[Measured | Finding]) -> None:
    """Compare what a check yields with its snapshot under this name, or write it."""
    _compare(check, of, [_figures(item) for item in items])


def versions() -> str:
    """Return the public versions of the libraries that the numbers depend on.

    `2.13.0` and `2.13.0+cpu` are one version from two indexes.
    """
    return ", ".join(
        f"{name} {version(name).partition('+')[0]}" for name in ("torch", "transformers")
    )


def entries(check: str) -> dict[str, Any]:
    """Return the snapshot of a check: its entries by the name of a fault or of a bound."""
    path = FOLDER / f"{check}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _compare(check: str, of: str, said: Any) -> None:
    if os.environ.get("UPDATE_SNAPSHOTS"):
        _write(check, of, said)
    recorded = entries(check).get(of)
    assert recorded is not None, f"no snapshot of {check} for {of}: run with UPDATE_SNAPSHOTS=1"
    if recorded["with"] == versions():
        found = [*differences(recorded["report"], json.loads(json.dumps(said)), f"{check}, {of}")]
        assert not found, "\n".join(found)


def _write(check: str, of: str, said: Any) -> None:
    with _locked(check) as document:
        document[of] = {"with": versions(), "report": said}


@contextlib.contextmanager
def _locked(check: str) -> Iterator[dict[str, Any]]:
    """Yield a check's document to be changed; several workers of xdist may want the same."""
    FOLDER.mkdir(exist_ok=True, parents=True)
    path = FOLDER / f"{check}.json"
    lock = Path(tempfile.gettempdir()) / f"trainsanity-{check}.lock"
    with FileLock(lock):
        document = entries(check)
        yield document
        ordered = dict(sorted((k, v) for k, v in document.items() if v))
        whole = path.with_suffix(f".{os.getpid()}")  # others read while this is written
        whole.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        whole.replace(path)


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
            # States are long, times and memory are the machine's, and repairs have tests of theirs.
            if not one.name.endswith(("state", "seconds", "bytes", "repairs"))
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
