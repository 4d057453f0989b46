"""What the gate costs: `python tests/benchmarks/gate.py [PAIRS] [--json FILE]`.

`trainsanity run` on the repaired pipeline of the incident in its tiny form, with every check up to
cost STEP, beside the imports that any training script makes: whole processes, from start to
exit, in turn.  Told are medians of wall-clock and processor time, the ratio pair by pair, and where
the time goes, from one more process per pair that looks at its clock in between.  Exits with 1 if
the gate takes more than twice as long as the imports.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

TARGET = "fixtures.pipelines.tiny_qwen3:repaired"
GATE = [sys.executable, "-m", "trainsanity", "run", TARGET]
IMPORTS = [sys.executable, "-c", "import torch; from transformers import Trainer"]
STAGES = [sys.executable, __file__, "--stages"]

LIMIT = 2.0
"""Times the imports."""


def process(command: list[str]) -> tuple[float, float, str]:
    """Wall-clock and processor seconds of a whole process, and its stdout."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    before = os.times()
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - start
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system, done.stdout


def stages() -> None:
    """Do what the gate does, and print when each part of it began, in seconds from the start."""
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter()

    mark("imports of torch and transformers")
    from trainsanity.isolation.seldom import seldom_collected

    with seldom_collected():
        import torch  # noqa: F401
        from transformers import Trainer  # noqa: F401

        mark("imports of trainsanity")
        from trainsanity.engine.registry import registry
        from trainsanity.engine.runner import run
        from trainsanity.report.text import render
        from trainsanity.sources.building import PipelineSpec

        checks = registry().select()
        mark("building the pipeline")
        from fixtures.pipelines import tiny_qwen3

        pipeline = PipelineSpec(TARGET, tiny_qwen3.repaired).make()
        mark("judging")
        report = run(pipeline, checks)
        mark("the report")
        render(report)
    mark("end")
    names = list(marks)
    spans = {a: marks[b] - marks[a] for a, b in itertools.pairwise(names)}
    looks = sum(report.measured.values())
    judging = spans.pop("judging")
    measured = {f"measurement {name}": s for name, s in report.measured.items()}
    print(json.dumps({**spans, **measured, "the checks themselves": judging - looks}))  # noqa: T201


def measure(pairs: int) -> dict[str, Any]:
    """The figures."""
    rounds = []
    parts: list[dict[str, float]] = []
    for number in range(pairs + 1):
        imports, gate = process(IMPORTS), process(GATE)
        told = process(STAGES)
        if number:  # the first finds no file in the page cache
            rounds.append((imports, gate))
            parts.append(json.loads(told[2]))
    walls = [gate[0] / imports[0] for imports, gate in rounds]
    where = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    told = [i for i, _ in rounds], [g for _, g in rounds]
    wall = [round(statistics.median(one[0] for one in some), 2) for some in told]
    cpu = [round(statistics.median(one[1] for one in some), 2) for some in told]
    by_cpu = [gate[1] / imports[1] for imports, gate in rounds]
    return {
        "pairs": pairs,
        "cores": len(os.sched_getaffinity(0)),
        "imports_seconds": wall[0],
        "gate_seconds": wall[1],
        "ratio": round(statistics.median(walls), 3),
        "ratio_least": round(min(walls), 3),
        "ratio_most": round(max(walls), 3),
        "imports_processor_seconds": cpu[0],
        "gate_processor_seconds": cpu[1],
        "processor_ratio": round(statistics.median(by_cpu), 3),
        "where": {name: round(s, 3) for name, s in sorted(where.items(), key=lambda i: -i[1])},
    }


def main() -> int:
    """Print the figures side by side; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pairs", nargs="?", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages:
        stages()
        return 0
    found = measure(options.pairs)
    print(  # noqa: T201
        f"imports {found['imports_seconds']} s, gate {found['gate_seconds']} s: "
        f"{found['ratio']} times ({found['ratio_least']} to {found['ratio_most']}, "
        f"{found['pairs']} pairs, {found['cores']} cores); processor time "
        f"{found['processor_ratio']} times"
    )
    for name, seconds in found["where"].items():
        if seconds >= 0.01:
            print(f"{seconds:>7.2f} s  {name}")  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps({"gate": found}, indent=2) + "\n", encoding="utf-8")
    return int(found["ratio"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
