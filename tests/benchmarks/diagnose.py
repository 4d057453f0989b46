"""What a long log costs: `python tests/benchmarks/diagnose.py [MEGABYTES] [--json FILE]`.

`trainsanity diagnose`, as a whole process, on a log of 200 MB of the lines that Trainer prints, and
on one of half of that, beside a process that reads the same lines and does nothing with them.
Told are seconds, by the clock and of the processor, and the highest resident memory (ru_maxrss).
Exits with 1 if the long log takes 256 MiB, a third of them what Arrow and numpy are, or more than
1.1 times the memory of the short one: it is streamed; or if it takes more than ten times the
processor time of reading.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MEMORY, GROWTH, TIMES = 256 * 2**20, 1.1, 10
"""Bytes, times those of the short log, and times the processor's seconds of reading."""

READS = "import sys\nfor line in open(sys.argv[1], encoding='utf-8'): pass\n"
WATCHED = (
    "import resource, runpy, sys\n"
    "try:\n"
    "    runpy.run_module('trainsanity', run_name='__main__', alter_sys=True)\n"
    "finally:\n"
    "    print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
)


def write(path: Path, size: int) -> int:
    """A log of that many bytes; how many entries it has."""
    entries, written = 0, 0
    with path.open("w", encoding="utf-8") as stream:
        while written < size:
            loss, norm = 5.7 - entries * 1e-7, 2.5 + entries % 7
            line = (
                f"{{'loss': {loss:.4f}, 'grad_norm': {norm:.3f}, 'learning_rate': 1e-05, "
                f"'epoch': {entries / 1000:.2f}}}\n"
            )
            written += stream.write(line)
            entries += 1
    return entries


def seconds(*command: str) -> tuple[float, float, str]:
    """How long a whole process takes, by the clock and of the processor, and what it prints."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    wall, after = time.perf_counter() - start, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system, done.stdout


def measure(path: Path, size: int) -> dict[str, Any]:
    """Seconds and memory for a log of that size."""
    entries = write(path, size)
    read, read_processor, _ = seconds("-c", READS, str(path))
    took, processor, said = seconds("-c", WATCHED, "diagnose", str(path), "--num-labels", "280")
    path.unlink()
    assert f"{entries} of {entries} logged losses are numbers" in " ".join(said.split()), said
    return {
        "megabytes": size / 1e6,
        "entries": entries,
        "seconds": round(took, 2),
        "read_seconds": round(read, 2),
        "processor_seconds": round(processor, 2),
        "read_processor_seconds": round(read_processor, 2),
        "peak_bytes": int(said.rpartition("PEAK ")[2]),
    }


def main() -> int:
    """Print the figures; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("megabytes", nargs="?", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        path = Path(folder) / "train.log"
        short, long = (measure(path, options.megabytes * 10**6 // k) for k in (2, 1))
    for found in (short, long):
        print(  # noqa: T201
            f"{found['megabytes']:.0f} MB, {found['entries']:,} entries: {found['seconds']} s "
            f"(reading the lines alone {found['read_seconds']} s), of the processor "
            f"{found['processor_seconds']} s ({found['read_processor_seconds']} s), "
            f"{found['peak_bytes'] / 2**20:.0f} MiB"
        )
    if options.json:
        told = {"diagnose": {"short": short, "long": long}}
        options.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    grows = long["peak_bytes"] > GROWTH * short["peak_bytes"]
    slow = long["processor_seconds"] > TIMES * long["read_processor_seconds"]
    return int(long["peak_bytes"] >= MEMORY or grows or slow)


if __name__ == "__main__":
    sys.exit(main())
