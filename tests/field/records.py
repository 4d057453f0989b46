"""Verdicts on file: the first one of each case, which stays as it is, and today's."""

from __future__ import annotations

import datetime
import json
import re
import statistics
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from fixtures.field import Case

ROOT = Path(__file__).resolve().parents[2]

FIELD = ROOT / "fixtures" / "field"

FOLDERS = {"first": FIELD / "first_verdicts", "today": FIELD / "verdicts"}
"""By column."""

PACKAGES = ("torch", "transformers", "trl", "peft")

Records = dict[str, dict[str, Any]]
"""One record per id of a case, with ``fault`` and ``twin``, or of a healthy one."""


def read(column: str, family: str) -> Records:
    """Return a family's records, none if it has no file."""
    path = FOLDERS[column] / f"{family}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(column: str, family: str, records: Records) -> None:
    """Write a family's records, sorted."""
    path = FOLDERS[column] / f"{family}.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def families() -> list[str]:
    """Names of the families that have records."""
    return sorted({path.stem for folder in FOLDERS.values() for path in folder.glob("*.json")})


def scored(one: Case, answer: dict[str, Any]) -> dict[str, Any]:
    """Add whether the fault was caught and named, and whether the twin is green."""
    fault, twin = answer["fault"], answer["twin"]
    own = [name for name in fault["red"] if name not in twin["red"]]
    if one.severity == "warning":
        own += [name for name in fault["warned"] if name not in (*twin["warned"], *twin["red"])]
    words = re.compile(one.words, re.IGNORECASE)
    named = [name for name in own if words.search(f"{name} {fault['texts'].get(name, '')}")]
    score = {"caught": bool(own), "named": bool(named), "own": own, "named_by": named}
    return answer | score | {"twin_green": twin["exit"] == 0}


def stamp() -> dict[str, Any]:
    """Return the date and the versions of today."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    commit = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", "trainsanity"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "versions": versions, "trainsanity": commit}


def line(name: str, record: dict[str, Any]) -> str:
    """Describe a record in one line."""
    if "healthy" in record:
        one = record["healthy"]
        return f"{'green' if one['exit'] == 0 else 'ALARM':7} {name:32} {_short(one)}"
    how = "named" if record["named"] else "caught" if record["caught"] else "MISSED"
    text = f"{how:7} {name:32} {_short(record['fault'])}"
    twin = "" if record["twin_green"] else f"\nALARM   {name + '_ok':32} {_short(record['twin'])}"
    return f"{text}{twin}"


def _short(one: dict[str, Any]) -> str:
    parts = [f"exit {one['exit']}"]
    parts += [f"{key} {', '.join(one[key])}" for key in ("red", "warned") if one[key]]
    parts += [f"error {name}: {reason}" for name, reason in one["errors"].items()]
    return f"{'; '.join(parts)} ({one['ran']} ran, {one['seconds']} s)"


def table() -> str:
    """Return the Markdown table: a row a family, the first verdict beside today's."""
    shown = [column for column, folder in FOLDERS.items() if any(folder.glob("*.json"))]
    head = ("faults", "caught", "named", "twins green", "healthy", "healthy green", "median s")
    lines = [f"| family | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    every: dict[str, Records] = {column: {} for column in shown}
    for family in families():
        records = {column: read(column, family) for column in shown}
        for column in shown:
            every[column] |= {f"{family}:{name}": one for name, one in records[column].items()}
        lines.append(_line(family, records))
    lines.append(_line("all", every))
    if len(shown) > 1:
        lines += ["", "Where two numbers stand, the first is the first verdict's."]
    return "\n".join(lines)


def _line(name: str, columns: dict[str, Records]) -> str:
    cells = [_counts(records) for records in columns.values() if records]
    texts = [list(dict.fromkeys(cell[key] for cell in cells)) for key in range(len(cells[0]))]
    return f"| {name} | {' | '.join(' → '.join(values) for values in texts)} |"


def _counts(records: Records) -> list[str]:
    cases = [one for one in records.values() if "fault" in one]
    healthy = [one for one in records.values() if "healthy" in one]
    counts = (
        len(cases),
        sum(one["caught"] for one in cases),
        sum(one["named"] for one in cases),
        sum(one["twin_green"] for one in cases),
        len(healthy),
        sum(one["healthy"]["exit"] == 0 for one in healthy),
    )
    seconds = list(_seconds(records))
    return [*map(str, counts), f"{statistics.median(seconds):.1f}" if seconds else ""]


def _seconds(records: Records) -> Iterator[float]:
    for record in records.values():
        for key in ("fault", "twin", "healthy"):
            if record.get(key, {}).get("seconds") is not None:
                yield record[key]["seconds"]
