"""Attacks by number, run each in forked processes; an attack returns what broke, or nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.field.judging import forked

from . import base

ROOT = Path(__file__).resolve().parents[2]

ATTACKS: dict[int, Callable[[], str]] = {}
"""By the number in ``list.md``; each returns what broke, or nothing."""


def attack(number: int) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register an attack."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        assert number not in ATTACKS
        ATTACKS[number] = function
        return function

    return register


@dataclass
class Odd:
    """A healthy Trainer with state in an odd place.

    Attributes:
        trainer: would be trained after it was judged.
        state: what must be the same afterwards, in values that JSON takes.
        named: a word by which the report may name what it could not put back.
        judged: judges the Trainer; returns the report.
        green: exit codes that are right.
    """

    trainer: Any
    state: Callable[[], Any]
    named: str = ""
    judged: Callable[[Any], Any] | None = None
    green: Sequence[int] = (0,)


def state(number: int) -> Callable[[Callable[[], Odd]], Callable[[], Odd]]:
    """Register an attack by state: training after judging has to equal training without."""

    def register(build: Callable[[], Odd]) -> Callable[[], Odd]:
        @attack(number)
        def compared() -> str:
            without = in_fork(lambda: _without(build()))
            after = in_fork(lambda: _after(build()))
            return _difference(without, after)

        return build

    return register


def in_fork(call: Callable[[], dict[str, Any]], limit: float = 120.0) -> dict[str, Any]:
    """Return what a function returns in a forked process, or {"errors": ...}."""
    return forked(call, limit)


def _without(odd: Odd) -> dict[str, Any]:
    before = plain(odd.state())
    return {"before": before, "trained": base.trained(odd.trainer), "after": plain(odd.state())}


def _after(odd: Odd) -> dict[str, Any]:
    import trainsanity
    from trainsanity.report import json as reports

    before, weights = plain(odd.state()), base.digest(odd.trainer)
    try:
        report = (odd.judged or trainsanity.judge)(odd.trainer)
    except trainsanity.UsageError as error:
        return {"refused": str(error), "named": bool(odd.named) and odd.named in str(error)}
    told = {"code": report.exit_code(), "report": reports.dumps([report])}
    told["red"] = [
        f"{r.check.code} {r.status}: {r.findings[0].headline if r.findings else r.reason}"
        for r in report.results
        if str(r.status) in ("fail", "error")
    ]
    now = plain(odd.state())
    told["before"], told["judged"] = before, now
    told["weights_kept"] = base.digest(odd.trainer) == weights
    lost = re.findall(r"could not be put back: ([^\n]*)", told.pop("report"))
    told["named"] = bool(odd.named) and any(odd.named in words for words in lost)
    told["green"] = list(odd.green)
    return told | {"trained": base.trained(odd.trainer), "after": plain(odd.state())}


def _difference(without: dict[str, Any], after: dict[str, Any]) -> str:
    broken = [
        f"{name}: {answer['errors']}"
        for name, answer in (("without", without), ("judged", after))
        if "errors" in answer
    ]
    if broken:
        return "; ".join(broken)
    if after["named"]:
        return ""
    if "refused" in after:
        return f"refused: {after['refused']}"
    if not after["weights_kept"]:
        broken.append("weights changed")
    if after["judged"] != after["before"]:
        broken.append(f"state {short(after['before'])} became {short(after['judged'])}")
    if after["trained"] != json.loads(json.dumps(without["trained"])):
        broken.append("training differs")
    elif after["after"] != without["after"]:
        broken.append(f"state after training differs: {short(after['after'])}")
    if after["code"] not in after["green"]:
        broken.append(f"exit code {after['code']}: {short(after['red'])}")
    return "; ".join(broken)


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else text[:157] + "..."


@dataclass
class Ended:
    """How a command ended, and the files that it left."""

    code: int
    out: str
    err: str
    files: dict[str, bytes]

    @property
    def text(self) -> str:
        return self.out + self.err

    @property
    def words(self) -> str:
        lines = [line for line in self.err.splitlines() if line.strip()] or ["no words"]
        return short(lines[-1])


def command(
    *arguments: str | bytes,
    files: dict[str, str | bytes] | None = None,
    env: dict[str, str] | None = None,
    limit: float = 120.0,
    stdin: str = "",
    shell: str = "",
    program: Sequence[str] = ("-m", "trainsanity"),
) -> Ended:
    """Run trainsanity as a user does, in a folder with these files; what is new stands in files."""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        here = Path(folder)
        for name, content in (files or {}).items():
            path = here / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        before = _files(here)
        line = [sys.executable, *program, *arguments]
        process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *line] if shell else line,
            cwd=here,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "COLUMNS": "100",
                **(env or {}),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin.encode(), timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            out, err = process.communicate()
            code = 124
        after = _files(here)
        new = {k: v for k, v in after.items() if before.get(k) != v}
        new |= {k: b"" for k in before if k not in after}
        return Ended(code, out.decode(errors="replace"), err.decode(errors="replace"), new)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts
    }


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What must not reach a terminal; colours are off where stdout is no terminal."""


def refused(ended: Ended, *, codes: Sequence[int] = (2,)) -> str:
    """Nothing if it was one sentence, with exit code 2, and nothing written."""
    broken = []
    if ended.code not in codes:
        broken.append(f"exit code {ended.code}: {ended.words}")
    if "Traceback" in ended.text:
        broken.append(f"traceback: {ended.words}")
    if "unexpected" in ended.err:
        broken.append(f"unexpected: {ended.words}")
    if ended.code == 2 and ended.err.count("error:") != 1:
        broken.append(f"not one sentence: {short(ended.err)}")
    if CONTROL.search(ended.text):
        broken.append(f"control character: {ended.text[:300]!a}")
    if ended.files:
        broken.append(f"written: {sorted(ended.files)}")
    return "; ".join(broken)


def green_is_wrong(ended: Ended, *, codes: Sequence[int] = (1, 2, 3)) -> str:
    """Nothing if the exit code is not 0, without a traceback of ours."""
    if ended.code not in codes:
        return f"exit code {ended.code}: {short(ended.text[-300:])}"
    if "Traceback" in ended.text or "unexpected" in ended.err:
        return f"traceback: {ended.words}"
    return ""
