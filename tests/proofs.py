"""``python -m tests.proofs [NAME ...]``: which of the own faults' causes are proved.

Each fault that names a repair is judged with it, in a forked process.  ``--planted`` gives each
first failure a repair that is wrong instead, ``--controls`` judges healthy pipelines.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import click

import trainsanity
from fixtures.controls import all_controls
from fixtures.faults import all_faults
from tests.field import tool
from tests.field.judging import forked
from trainsanity.engine.proof import proved
from trainsanity.engine.registry import registry
from trainsanity.engine.report import Report
from trainsanity.engine.runner import run
from trainsanity.repairs import repair, setting
from trainsanity.types import Result, Status

WRONG = (
    setting("args", "max_grad_norm", 0.5),
    setting("args", "weight_decay", 0.003),
    setting("args", "adam_beta2", 0.98),
    repair("dropout off", "dropout_off"),
    setting("config", "use_cache", False),
)
"""Repairs that mend nothing of what they are planted in."""

CLAIM = "a cause that was planted"

LIMIT = 240.0
"""Seconds for one pipeline, which is judged several times."""


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
    return {"rows": rows, "red": [r.check.code for r in report.results if r.status is Status.FAIL]}


def _planted(result: Result, wrong: Any) -> Result:
    if result.status is not Status.FAIL:
        return result
    findings = tuple(replace(f, repairs=(wrong,), cause=CLAIM) for f in result.findings)
    return replace(result, findings=findings)


def main() -> int:
    """Print a line for each proof, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--controls", action="store_true")
    parser.add_argument("--short", action="store_true", help="only the checks that catch each")
    asked = parser.parse_args()
    tool.load()
    ones = all_controls() if asked.controls else [f for f in all_faults() if f.processes == 1]
    chosen = [one for one in ones if not asked.names or one.id in asked.names]
    if unknown := set(asked.names) - {one.id for one in ones}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    counts: Counter[str] = Counter()
    claimed = 0
    for k, one in enumerate(chosen):
        wrong = WRONG[k % len(WRONG)] if asked.planted else None
        # What is planted is told or not by the check that fails, whatever else is asked.
        checks = sorted(one.caught_by) if asked.planted or asked.short else ()
        answer = forked(partial(judged, one.id, one.build, checks, planted=wrong), LIMIT)
        if "rows" not in answer:
            counts["not judged"] += 1
            click.echo(f"{one.id}: {json.dumps(answer.get('errors'))}")
            continue
        named = [row for row in answer["rows"] if row["repairs"]]
        claimed += sum(row["cause"] == CLAIM for row in answer["rows"])
        # A fault is proved if what its first failure names is.
        of_fault = named[0]["proof"]["status"] if named else "no repair"
        counts[of_fault] += 1
        click.echo(f"{one.id}: {of_fault}; red {', '.join(answer['red']) or 'none'}")
        for row in named:
            click.echo(f"    {row['code']} {row['proof']['status']}: {row['proof']['sentence']}")
    click.echo(", ".join(f"{number} {status}" for status, number in counts.most_common()))
    if asked.planted:
        click.echo(f"{claimed} planted causes told")
    return int(claimed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
