"""Write trainsanity/report/examples.json: what each check says of the first fault that it catches.

A check that catches none says it of the first that it warns of.

With codes as arguments only those are made anew.  `pytest tests/test_faults.py` compares: what a
fault makes its checks say is what stands there, numbers aside.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fixtures.faults import Fault
    from trainsanity.types import Check

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "trainsanity" / "report" / "examples.json"


def example(check: Check, fault: Fault) -> dict[str, str]:
    """What the check says of the fault.

    Raises:
        SystemExit: it does not find it.
    """
    from fixtures.processes import reported, results_of
    from trainsanity.engine.runner import run
    from trainsanity.pytest_plugin.results import failure_text
    from trainsanity.sources.building import PipelineSpec

    if fault.processes > 1:
        (report,), _ = reported([fault.command], f"--select={check.code}")
        (result,) = results_of(report)
        result = replace(result, pipeline_id=fault.id)
    else:
        spec = PipelineSpec(fault.id, fault.build, command=(fault.command,))
        (result,) = run(spec.make(), [check]).results
    if not result.findings:
        raise SystemExit(f"{check.code} is {result.status} on {fault.id}: {result.reason}")
    return {
        "fault": fault.id,
        "title": fault.title,
        "upstream": fault.upstream,
        # Whose home it was says nothing.
        "text": re.sub(r"(?<!\S)/\S*/", "…/", failure_text(result)),
    }


def main() -> None:
    """Write all, or those that are named; what no check is called any more goes."""
    from fixtures.faults import all_faults
    from trainsanity.engine.registry import registry

    old = json.loads(EXAMPLES.read_text(encoding="utf-8"))["examples"] if EXAMPLES.exists() else {}
    new, problems = {}, []
    for check in registry().all():
        catching = [fault for fault in all_faults() if check.name in fault.caught_by]
        # All that it finds may be warnings.
        catching = catching or [fault for fault in all_faults() if check.name in fault.warned_by]
        own = [fault for fault in catching if fault.stage == check.stage]
        first = next(iter([*own, *catching]), None)
        if sys.argv[1:] and check.code not in sys.argv[1:] and check.code in old:
            new[check.code] = old[check.code]
        elif first is None:
            problems.append(f"no fault is caught by {check.code} {check.name}")
        else:
            try:
                new[check.code] = example(check, first)
            except SystemExit as problem:
                problems.append(str(problem))
    document = {"transformers": version("transformers"), "examples": new}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    EXAMPLES.write_text(text, encoding="utf-8")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
