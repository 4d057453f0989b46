"""``python -m tests.proofs [NAME ...]``: which faults' causes are proved, and which are not.

Each fault of the own corpus and of the field's is judged with the repairs that its findings name,
in a forked process; NAME is a fault's id, a family of the field, or FAMILY:ID.  ``--write`` keeps
what was seen in ``.ci/proofs.json``, from which ``--table`` tells the share and lists what was
refuted, not proved and not tried.  ``--planted`` gives each failure a repair that is wrong instead;
``--controls`` judges the healthy pipelines of both corpora, which have to name no cause.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import click

import trainsanity
from fixtures.controls import all_controls
from fixtures.faults import all_faults
from fixtures.field import cases, families, healthy_ones
from tests.field import tool
from tests.field.judging import forked
from trainsanity.engine.proof import proved
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.proofs import Proved
from trainsanity.repairs import repair, setting
from trainsanity.types import Result, Status

RECORD = Path(__file__).resolve().parents[1] / ".ci" / "proofs.json"

WRONG = (
    setting("args", "max_grad_norm", 0.5),
    setting("args", "weight_decay", 0.003),
    setting("args", "adam_beta2", 0.98),
    setting("args", "adam_epsilon", 1e-7),
    setting("args", "seed", 43),
    setting("args", "logging_steps", 7),
    setting("config", "use_cache", False),
    setting("config", "initializer_range", 0.03),
    repair("dropout off", "dropout_off"),
    repair("model.accepts_loss_kwargs = False", "counts_not_taken"),
)
"""Ten repairs that mend nothing of what they are planted in."""

CLAIM = "a cause that was planted"

LIMIT = 240.0
"""Seconds for one pipeline, which is judged several times."""

NO_REPAIR = "no repair"
NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class Subject:
    """A pipeline of one of the corpora: its name, how it is built, and what catches it."""

    name: str
    build: Callable[[], Any]
    caught_by: frozenset[str] = frozenset()


def judged(
    name: str, build: Callable[[], Any], checks: Iterable[str] = (), *, planted: Any = None
) -> dict[str, Any]:
    """Return the proofs of one pipeline, in values that JSON takes."""

    def judge(pipeline: Any) -> Report:
        report = run(pipeline, registry().select(checks))
        if planted is not None:
            report = replace(report, results=tuple(_planted(r, planted) for r in report.results))
        return proved(pipeline, report)

    report = trainsanity.PipelineSpec(name, build).visit(judge)
    rows = [
        {
            "code": result.check.code,
            "repairs": [one.words for one in finding.repairs],
            "cause": finding.cause,
            "proof": finding.proof.as_dict(),
        }
        for result in report.results
        for finding in result.findings
        if finding.proof is not None
    ]
    claims = [
        f"{result.check.code} {result.status}: {finding.cause}"
        for result in report.results
        for finding in result.findings
        if finding.cause and finding.severity == "failure"
    ]
    red = [r.check.code for r in report.results if r.status is Status.FAIL]
    return {"rows": rows, "red": red, "claims": claims}


def _planted(result: Result, wrong: Any) -> Result:
    if result.status is not Status.FAIL:
        return result
    findings = tuple(replace(f, repairs=(wrong,), cause=CLAIM) for f in result.findings)
    return replace(result, findings=findings)


def subjects(family: str, *, healthy: bool) -> list[Subject]:
    """Return what one corpus has: ``own``, or a family of the field."""
    if family == "own":
        ones = all_controls() if healthy else [f for f in all_faults() if f.processes == 1]
        return [Subject(o.id, o.build, getattr(o, "caught_by", frozenset())) for o in ones]
    chosen = healthy_ones(family) if healthy else cases(family)
    found = [Subject(f"{family}:{o.id}", o) for o in chosen if o.processes == 1]
    if healthy:
        found += [Subject(f"{family}:{o.id}_ok", o.twin) for o in cases(family)
                  if o.processes == 1]  # fmt: skip
    return found


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a fault: what is red, and each finding that names a repair."""
    if "rows" not in row:
        return {"why": " ".join(map(str, (row.get("errors") or {}).values())) or NOT_JUDGED}
    named = [
        {"code": one["code"], **{key: one["proof"][key] for key in ("status", "sentence")}}
        for one in row["rows"]
        if one["repairs"]
    ]
    return {"red": row["red"], "named": named}


def standing(row: dict[str, Any]) -> str:
    """Return what became of a fault: what the first of its failures that names a repair showed."""
    if "named" not in row:
        return NOT_JUDGED
    return str(row["named"][0]["status"]) if row["named"] else NO_REPAIR


def read() -> dict[str, dict[str, Any]]:
    """Return what is recorded, of faults and of healthy pipelines, by name."""
    nothing: dict[str, dict[str, Any]] = {"faults": {}, "healthy": {}}
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else nothing


def _record(kind: str, name: str, row: dict[str, Any]) -> None:
    document = read()
    document[kind][name] = row
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    RECORD.write_text(f"{text}\n", encoding="utf-8")


def share(faults: dict[str, Any]) -> tuple[int, int]:
    """Return how many faults have a proved cause, and how many name a repair."""
    counts = Counter(standing(row) for row in faults.values())
    return counts[Proved.PROVED], sum(counts[status] for status in Proved)


def table(document: dict[str, dict[str, Any]]) -> str:
    """Return the share that is proved, and the faults that name a repair which is not, in Markdown.

    Args:
        document: as :func:`read` returns it.
    """
    faults, healthy = document["faults"], document["healthy"]
    proved_, named = share(faults)
    counts = Counter(standing(row) for row in faults.values())
    lines = [
        f"Of {len(faults)} faults that were judged with `--prove-fix`, {named} name a repair; of "
        f"{proved_} of these ({proved_ / max(named, 1):.0%}) it is proved. {counts[NO_REPAIR]} "
        f"name none, {counts[NOT_JUDGED]} could not be judged. On {len(healthy)} healthy pipelines "
        f"{sum(map(len, healthy.values()))} causes of a failure are claimed.",
        "",
        "| fault | became | what was seen |",
        "|---|---|---|",
    ]
    for status in (Proved.REFUTED, Proved.UNPROVED, Proved.UNTRIED):
        for name, row in sorted(faults.items()):
            if standing(row) == status:
                first = row["named"][0]
                lines.append(f"| {name} | {status} | {first['code']}: {first['sentence']} |")
    return "\n".join(lines)


def _told(name: str, row: dict[str, Any]) -> None:
    said = row.get("why") or f"red {', '.join(row['red']) or 'none'}"
    click.echo(f"{name}: {standing(row)}; {said}")
    for one in row.get("named", ()):
        click.echo(f"    {one['code']} {one['status']}: {one['sentence']}")


def _judge_family(asked: argparse.Namespace, family: str, names: set[str]) -> int:
    """Judge one corpus's pipelines; return how many claims were made that must not be."""
    claimed = 0
    for k, one in enumerate(subjects(family, healthy=asked.controls)):
        if names and not names & {one.name, family, one.name.partition(":")[2]}:
            continue
        wrong = WRONG[k % len(WRONG)] if asked.planted else None
        # What is planted is told or not by the check that fails, whatever else is asked.
        checks = sorted(one.caught_by) if asked.planted or asked.short else ()
        row = forked(partial(judged, one.name, one.build, checks, planted=wrong), LIMIT)
        claims = row.pop("claims", [])
        if asked.planted:
            claimed += sum(r["cause"] == CLAIM for r in row.get("rows", ()))
        elif asked.controls:
            claimed += len(claims)
            for claim in claims:
                click.echo(f"    CLAIMED {claim}")
        short = kept(row)
        _told(one.name, short)
        if asked.write and asked.controls:
            _record("healthy", one.name, claims)
        elif asked.write:
            _record("faults", one.name, short)
    return claimed


def _asked_for(family: str, names: set[str]) -> bool:
    """Return whether one of the names may be in this corpus; ids alone may be in any."""
    plain = {name for name in names if ":" not in name}
    if not names or (plain and (family == "own" or family in plain or not plain & _own())):
        return True
    return any(name.startswith(f"{family}:") for name in names)


def _own() -> set[str]:
    return {one.id for one in (*all_faults(), *all_controls())}


def main() -> int:
    """Print a line for each proof, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--short", action="store_true", help="only the checks that catch each")
    parser.add_argument("--write", action="store_true", help="keep it in .ci/proofs.json")
    parser.add_argument("--table", action="store_true", help="judge nothing, print what is kept")
    asked = parser.parse_args()
    if asked.table:
        click.echo(table(read()))
        return 0
    names = set(asked.names)
    warnings.simplefilter("ignore")
    importlib.import_module("transformers").Trainer  # noqa: B018 - it is loaded by that
    tool.load()
    bad = 0
    for family in ("own", *families()):
        if not _asked_for(family, names):
            continue
        # One process a family: what a module does when it is imported stays its own.
        child = os.fork()
        if not child:
            code = 2
            try:
                code = int(_judge_family(asked, family, names) > 0)
            finally:
                sys.stdout.flush()
                os._exit(code)
        bad |= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return bad


if __name__ == "__main__":
    raise SystemExit(main())
