"""What `trainsanity rehearse` predicts, beside training: `python tests/benchmarks/hours.py TARGET`.

The run of TARGET is rehearsed in a process of its own, and its first `--steps` steps are trained in
another, with nothing but a clock at the end of each step. Told are the seconds a step of both and
their ratio; the first step, which warms up, is told by itself.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TARGET = "fixtures.pipelines.tiny_qwen3:repaired"


def trained(target: str, steps: int) -> dict[str, float]:
    """Train so many steps of a pipeline in this process, and return the seconds of one."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_step_end(self, args: Any, *_: Any, **__: Any) -> None:
            import torch

            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    module, _, factory = target.partition(":")
    made = getattr(importlib.import_module(module), factory)()
    trainer = getattr(made, "trainer", None) or made
    trainer.args.max_steps = steps
    trainer.args.save_strategy = trainer.args.eval_strategy = "no"
    trainer.add_callback(Clock())
    trainer.train()
    each = [later - earlier for earlier, later in itertools.pairwise(ends)]
    return {
        "steps": len(each),
        "first_step_seconds": round(each[0], 3),
        "step_seconds": round((ends[-1] - ends[1]) / (len(each) - 1), 4),
    }


def rehearsed(target: str) -> dict[str, Any]:
    """Rehearse a pipeline in a process of its own, and return the seconds of a step it predicts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rehearsal.json")
        command = [sys.executable, "-m", "trainsanity", "rehearse", target, "--json", str(path)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not path.exists():
            raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
        told = json.loads(path.read_text(encoding="utf-8"))
        kept = ("verdict", "step_seconds", "step_error", "timed_steps", "hours")
        return {
            "rehearsal_seconds": round(time.perf_counter() - start, 1),
            "device": told["environment"]["device"],
            **{name: told.get(name) for name in kept},
        }


def main() -> int:
    """Print the figures as a line of JSON; none of them is asked to be good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", nargs="?", default=TARGET)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(trained(asked.target, asked.steps)))  # noqa: T201
        return 0
    before = rehearsed(asked.target)
    command = [sys.executable, "-P", __file__, "--one", asked.target, f"--steps={asked.steps}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
    after = json.loads(done.stdout.splitlines()[-1])
    ratio = round(before["step_seconds"] / after["step_seconds"], 4)
    found = {"target": asked.target, "predicted": before, "trained": after, "ratio": ratio}
    print(json.dumps(found))  # noqa: T201
    if asked.json:
        asked.json.write_text(json.dumps({"hours": found}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
