"""The answers as lines, as the document .ci/score.json, and as the tables of the documentation."""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainsanity.types import STAGES

from .subjects import Subject, subjects

DOCUMENT = Path(__file__).resolve().parents[2] / ".ci" / "score.json"
COMMAND = "tox -e score,score457,score451"
OURS = "trainsanity"
STRICT = "torchtest2, strict"


def read(path: Path) -> list[dict[str, Any]]:
    """All answers; a line that was cut off is no answer."""
    answers = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            answers.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return answers


def append(path: Path, answer: dict[str, Any]) -> None:
    """One more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(answer) + "\n")


def write(path: Path, answers: list[dict[str, Any]]) -> None:
    """These and no others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")


def publish(answers: list[dict[str, Any]]) -> None:
    """Write the document: what each tool says of each subject, judged."""
    known = subjects()
    runs: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for one in answers:
        if one["subject"] in known:
            key = (one["tool"], one["version"], one["transformers"])
            runs.setdefault(key, {})[one["subject"]] = one
    document = {
        "command": COMMAND,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "subjects": {one.id: {"stage": one.stage, "base": one.base} for one in known.values()},
        "runs": [
            {
                "tool": tool,
                "version": package,
                "transformers": transformers,
                "looks_at": sorted({stage for one in said.values() for stage in one["looks_at"]}),
                "answers": {
                    name: _judged(one, said, known[name]) for name, one in sorted(said.items())
                },
            }
            for (tool, package, transformers), said in sorted(runs.items())
        ],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    DOCUMENT.write_text(text + "\n", encoding="utf-8")


def _judged(
    one: dict[str, Any], said: dict[str, dict[str, Any]], subject: Subject
) -> dict[str, Any]:
    """Of one subject: what is red, what of it is the fault's own, and which of that names it."""
    found: dict[str, Any] = {"red": sorted(one["red"]), "seconds": one["seconds"]}
    if one["warned"]:
        found["warned"] = sorted(one["warned"])
    if set(one["unable"]) & {"all"} or (one["unable"] and subject.is_fault and not one["red"]):
        found["unable"] = one["unable"]
    if "exact" in one["more"]:
        found["exact"] = one["more"]["exact"]
    base = said.get(subject.base)
    if subject.is_fault and base is not None:
        for name, reds, healthy in (
            ("own", set(one["red"]), set(base["red"])),
            (
                "own_strict",
                {*one["red"], *one["warned"]},
                {*base["red"], *base["warned"]},
            ),
        ):
            own = reds - healthy
            found[name] = sorted(own)
            stages = one["speaks_of"]
            found[f"{name}_named"] = any(subject.stages & {*stages[check]} for check in own)
    return found


# What the documentation shows


def markdown(document: dict[str, Any]) -> str:
    """The tables, from the document alone."""
    rows = [_row(document, run, strict) for run in document["runs"] for strict in _ways(run)]
    rows.sort(key=lambda row: (row["tool"] != OURS, -row["found"], row["tool"], row["version"]))
    counted = document["subjects"].values()
    faults = sum(1 for one in counted if one["base"])
    controls = sum(1 for name in document["subjects"] if name.startswith("control:"))
    lines = [
        f"`{document['command']}` asks {faults} faults and {controls} healthy controls, each in a "
        f"process of its own (Python {document['python']}, torch {document['torch']}, on the CPU; "
        f"{document.get('date', 'no date')}). "
        "A fault is found if a tool is red on it in a check that is not red on its healthy base, "
        "and named if that check speaks of the stage where the fault lies. Exact: the checks that "
        "the fault is to make fail, and no others. A crash of a tool is no detection. Seconds: of "
        "processor time, the median of all pipelines.",
        "",
        "| tool | transformers | faults asked | found | named | exact | false alarms | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['tool']} {row['version']} | {row['transformers']} | {row['asked']} | "
        f"{_share(row['found'], row['asked'])} | {row['named']} | {row['exact']} | "
        f"{row['alarms']} of {row['controls']} | {row['seconds']:.1f} |"
        for row in rows
    ]
    lines += ["", *_by_stage(document), "", *(f"- {note}" for note in _notes(document))]
    return "\n".join(lines)


def _ways(run: dict[str, Any]) -> tuple[bool, ...]:
    warned = any("warned" in one for one in run["answers"].values())
    return (False, True) if warned else (False,)


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.0%})" if whole else "0"


def _row(document: dict[str, Any], run: dict[str, Any], strict: bool) -> dict[str, Any]:
    own = "own_strict" if strict else "own"
    faults = [one for one in run["answers"].values() if own in one]
    healthy = {
        name: one for name, one in run["answers"].items() if not document["subjects"][name]["base"]
    }
    controls = [name for name in healthy if name.startswith("control:")]
    alarmed = {
        name.partition(":")[2]
        for name, one in healthy.items()
        if one["red"] or (strict and one.get("warned"))
    }
    times = [one["seconds"] for one in run["answers"].values()]
    return {
        "tool": STRICT if strict else run["tool"],
        "version": run["version"],
        "transformers": run["transformers"],
        "asked": len(faults),
        "found": sum(1 for one in faults if one[own]),
        "named": sum(1 for one in faults if one[f"{own}_named"]),
        "exact": sum(1 for one in faults if one["exact"]) if run["tool"] == OURS else "",
        "alarms": len(alarmed & {name.partition(":")[2] for name in controls}),
        "controls": len(controls),
        "seconds": statistics.median(times),
    }


def _newest(document: dict[str, Any]) -> list[tuple[str, dict[str, Any], bool]]:
    """Each tool's run under the newest transformers that it was asked under, by column name."""
    runs: dict[str, dict[str, Any]] = {}
    for run in document["runs"]:
        last = runs.get(run["tool"])
        if last is None or _number(run["transformers"]) > _number(last["transformers"]):
            runs[run["tool"]] = run
    columns = [
        (STRICT if strict else tool, run, strict)
        for tool, run in runs.items()
        for strict in _ways(run)
    ]
    return sorted(columns, key=lambda column: (column[0] != OURS, column[0]))


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part.isdigit())


def _by_stage(document: dict[str, Any]) -> list[str]:
    """Faults found, by the stage that they are filed under."""
    columns = _newest(document)
    faults = [name for name, one in document["subjects"].items() if one["base"]]
    lines = [
        f"| stage | faults | {' | '.join(name for name, _, _ in columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for stage in STAGES:
        here = [name for name in faults if document["subjects"][name]["stage"] == stage]
        cells = []
        for _, run, strict in columns:
            own = "own_strict" if strict else "own"
            asked = [run["answers"][name] for name in here if own in run["answers"].get(name, {})]
            found = sum(1 for one in asked if one[own])
            cell = f"{found}" if len(asked) == len(here) else f"{found} of {len(asked)} asked"
            blind = asked and not found and stage not in run["looks_at"]
            cells.append("does not look" if blind else cell)
        lines.append(f"| {stage} | {len(here)} | {' | '.join(cells)} |")
    return lines


def _notes(document: dict[str, Any]) -> list[str]:
    """What the numbers leave out: where a peer is alone, and what its false alarms are."""
    columns = {name: (run, strict) for name, run, strict in _newest(document)}
    ours = columns.pop(OURS, None)
    notes = []
    for name, (run, strict) in columns.items():
        own, answers = "own_strict" if strict else "own", run["answers"]
        if ours is not None:
            alone = [
                fault.partition(":")[2]
                for fault, one in answers.items()
                if one.get(own) and ours[0]["answers"].get(fault, {}).get("own") == []
            ]
            told = f"`{'`, `'.join(alone)}`" if alone else "none"
            notes.append(f"Found by {name} and not by trainsanity: {told}.")
        alarms = Counter(
            check
            for subject, one in answers.items()
            if subject.startswith("control:")
            for check in {*one["red"], *(one.get("warned", ()) if strict else ())}
        )
        if alarms:
            most = sorted(alarms.items(), key=lambda item: (-item[1], item[0]))[:4]
            listed = ", ".join(f"`{check}` {count}" for check, count in most)
            notes.append(f"Controls on which {name} is red, by its checks: {listed}.")
        late = sum(1 for one in answers.values() if "all" in one.get("unable", {}))
        if late:
            notes.append(f"{name} came to no answer on {late} pipelines.")
    return notes
