"""What proving a fix costs: `python tests/benchmarks/prove.py [ROUNDS] [--json FILE]`.

`trainsanity run` on the incident in its tiny form, which tries what costs little, and the same with
`--prove-fix`, beside `--no-prove-fix`: whole processes, in turn.  Told are medians of wall-clock
and processor time, and the ratios round by round.  Exits with 1 if a run with its proofs takes more
than twice the processor time of one without.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

COMMAND = [sys.executable, "-m", "trainsanity", "run", "fixtures.pipelines.tiny_qwen3:incident",
           "--quiet"]  # fmt: skip

LIMIT = 2.0
"""Times the run without: one repair of the incident is proved, and it is judged once more."""


def process(*more: str) -> tuple[float, float]:
    """Wall-clock and processor seconds of a whole process, which finds failures."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([*COMMAND, *more], cwd=ROOT, env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode != 1:
        raise SystemExit(f"exited with {done.returncode}, and not with 1:\n{done.stderr}")
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def measure(rounds: int) -> dict[str, Any]:
    """The figures."""
    process("--no-prove-fix")  # the first finds no file in the page cache
    seen = [(process("--no-prove-fix"), process(), process("--prove-fix")) for _ in range(rounds)]
    return {
        "pairs": rounds,
        "cores": len(os.sched_getaffinity(0)),
        "seconds": round(statistics.median(bare[0] for bare, _, _ in seen), 2),
        "default_seconds": round(statistics.median(one[0] for _, one, _ in seen), 2),
        "default_ratio": round(statistics.median(one[0] / bare[0] for bare, one, _ in seen), 3),
        "default_processor_ratio": round(
            statistics.median(one[1] / bare[1] for bare, one, _ in seen), 3
        ),
        "proved_seconds": round(statistics.median(one[0] for _, _, one in seen), 2),
        "ratio": round(statistics.median(one[0] / bare[0] for bare, _, one in seen), 3),
        "processor_ratio": round(statistics.median(one[1] / bare[1] for bare, _, one in seen), 3),
    }


def main() -> int:
    """Print the figures side by side; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = measure(options.rounds)
    print(  # noqa: T201
        f"run --no-prove-fix {found['seconds']} s; run {found['default_seconds']} s: "
        f"{found['default_ratio']} times, processor time {found['default_processor_ratio']} times; "
        f"run --prove-fix {found['proved_seconds']} s: {found['ratio']} times, processor time "
        f"{found['processor_ratio']} times ({found['pairs']} rounds, {found['cores']} cores)"
    )
    if options.json:
        options.json.write_text(json.dumps({"prove": found}, indent=2) + "\n", encoding="utf-8")
    return int(max(found["processor_ratio"], found["default_processor_ratio"]) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
