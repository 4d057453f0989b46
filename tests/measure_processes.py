"""Judge the incident at full size by several engines, in as many processes as there are GPUs.

    python -m tests.measure_processes                        # full-size Qwen3-4B, every engine
    python -m tests.measure_processes ddp fsdp2 zero3
    python -m tests.measure_processes --geometry 14B fsdp2_lora fsdp2_bfloat16
    python -m tests.measure_processes --processes 1 --geometry 0.6B ddp_repaired

Prints a line of JSON for each, for ``.ci/measured.jsonl``; TRAINSANITY_RECORD names a file that
gets the lines as well, and TRAINSANITY_LOGS a folder for what the processes wrote.  A run that does
not end in ``--timeout`` seconds is told and ended.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30

EVERY = ("ddp", "ddp_repaired", "fsdp2", "fsdp2_repaired", "zero2", "zero3", "zero3_repaired",
         "tensor", "tensor_times", "mesh", "mesh_times")  # fmt: skip
"""The incident by each engine, repaired by some of them, and the dimensions of a mesh."""


def main() -> None:
    """Judge each of the named factories of ``tests.examples.processes_full_size``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=EVERY)
    parser.add_argument("--geometry", default="4B")
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=280)
    parser.add_argument("--module", default="tests.examples.processes_full_size")
    asked = parser.parse_args()
    for name in asked.names:
        line = measured(asked, name)
        print(json.dumps(line), flush=True)  # noqa: T201 - for whoever watches
        if path := os.environ.get("TRAINSANITY_RECORD"):
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")


def measured(asked: Any, name: str) -> dict[str, Any]:
    """Return what is told of one run; all its processes are ended with it."""
    import torch

    processes = asked.processes or torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "report.json"), Path(folder, "log")
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={processes}", "-m", "trainsanity", "run", "--max-cost=step",
            f"--json={path}", f"{asked.module}:{name}",
        ]  # fmt: skip
        settings = {
            "TRAINSANITY_GEOMETRY": asked.geometry,
            "HF_HUB_OFFLINE": "1",
            "PYTHONFAULTHANDLER": "1",
        }
        start = time.perf_counter()
        with open(log, "w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            try:
                process.wait(asked.timeout)
            except subprocess.TimeoutExpired:
                _end(process)
        seconds = time.perf_counter() - start
        line = {
            "date": datetime.date.today().isoformat(),
            "pipeline": f"{asked.geometry} {name}",
            "processes": processes,
            "whole_process_seconds": round(seconds, 1),
            "exit_code": process.returncode,
        }
        written = log.read_text(encoding="utf-8", errors="replace")
        if kept := os.environ.get("TRAINSANITY_LOGS"):
            Path(kept, f"{asked.geometry}-{name}-{processes}.log").write_text(written[-400_000:])
        if not path.exists():
            lines = written.splitlines()
            reached = [one for one in lines if one.startswith("trainsanity: ")]
            return {**line, "no_report": [*reached[-2:], *lines[-12:]]}
        return line | told(json.loads(path.read_text(encoding="utf-8")))


def _end(process: Any) -> None:
    """End a run with all its processes, each of which first writes where it was."""
    import psutil

    launcher = psutil.Process(process.pid)
    workers = launcher.children(recursive=True)
    for worker in workers:
        worker.send_signal(signal.SIGABRT)  # faulthandler's
    psutil.wait_procs(workers, timeout=5)
    for one in (*workers, launcher):
        if one.is_running():
            one.kill()
    process.wait()


def told(report: dict[str, Any]) -> dict[str, Any]:
    """Return verdicts, factor, seconds and peaks of a report."""
    rows = {row["name"]: row for row in report["results"]}

    def names(status: str) -> list[str]:
        return sorted(name for name, row in rows.items() if row["status"] == status)

    peaks = {
        one["name"]: round(one["peak_bytes"] / GIB, 2)
        for one in report["measurements"]
        if one.get("peak_bytes")
    }
    slow = sorted(report["measurements"], key=lambda one: -one["seconds"])[:14]
    highest = sorted(peaks.items(), key=lambda one: -one[1])[:5]
    return {
        **report["environment"],
        "seconds": round(report["summary"]["seconds"], 1),
        "ran": report["summary"]["ran"],
        "of": report["summary"]["of"],
        "failed": names("fail"),
        "warned": names("warning"),
        "errors": {name: rows[name]["reason"] for name in names("error")},
        "blocked": len(names("blocked")),
        "factor": rows["loss.matches_reference"]["factor"],
        "cause": (rows["loss.matches_reference"]["cause"] or "")[:90],
        "peak_gib": max(peaks.values(), default=None),
        "peak_of_the_step_gib": peaks.get("recording"),
        "highest_gib": dict(highest),
        "slowest": {one["name"]: round(one["seconds"], 1) for one in slow},
    }


if __name__ == "__main__":
    main()
