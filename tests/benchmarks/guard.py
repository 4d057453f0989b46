"""What the guard costs: `python tests/benchmarks/guard.py [ROUNDS] [--json FILE]`.

Judging `fixtures.pipelines.tiny_qwen3:repaired` with every check up to cost STEP, in processes of
their own, with a clock around the guard: snapshots and fingerprints before each measurement and
each check, and comparing and putting back after it. Told are medians of processor seconds, the
share of judging, and the share of the whole process, imports and all. Beside them stand the same
figures of the commit before the guard walked through the pipeline's own objects, where git has it
(`--before COMMIT`); it has fewer checks, and so fewer looks to guard. `--target MODULE:FACTORY`
judges another pipeline.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

TARGET = "fixtures.pipelines.tiny_qwen3:repaired"
BEFORE = "67ab6103~1"
"""The last commit whose guard knew the places of state by name."""

GUARDS = {
    "trainsanity.isolation.snapshot": ("preserved", "restored"),
    "trainsanity.isolation.fingerprint": ("guarded",),
}
"""The context managers of the guard, by module."""


class Clock:
    """Processor seconds inside the guard, and how often it was asked for."""

    def __init__(self) -> None:
        self.seconds, self.times = 0.0, 0
        self._running = False

    @contextlib.contextmanager
    def _on(self) -> Iterator[None]:
        if self._running:  # a guard inside another's beginning or end
            yield
            return
        self._running, start = True, time.process_time()
        try:
            yield
        finally:
            self._running = False
            self.seconds += time.process_time() - start

    def around(self, guard: Callable[..., Any]) -> Callable[..., Any]:
        """Return a context manager that counts what another does before and after its block."""
        clock = self

        class Timed:
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.inner = guard(*args, **kwargs)

            def __enter__(self) -> Any:
                clock.times += 1
                with clock._on():
                    return self.inner.__enter__()

            def __exit__(self, *error: Any) -> Any:
                with clock._on():
                    return self.inner.__exit__(*error)

        return Timed


def judged(target: str) -> dict[str, Any]:
    """Judge a pipeline in this process, and return the figures."""
    clock = Clock()
    for module, names in GUARDS.items():
        # Before whatever takes them from there is imported.
        home: Any = importlib.import_module(module)
        for name in names:
            setattr(home, name, clock.around(getattr(home, name)))
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run
    from trainsanity.sources.building import PipelineSpec

    checks = registry().select()
    module, _, factory = target.partition(":")
    pipeline = PipelineSpec(target, getattr(importlib.import_module(module), factory)).make()
    start = time.process_time()
    report = run(pipeline, checks)
    end = time.process_time()
    ran = sum(str(result.status) in ("pass", "fail", "warning") for result in report.results)
    return {
        "guard_seconds": clock.seconds,
        "judging_seconds": end - start,
        "process_seconds": end,
        "times": clock.times,
        "checks": ran,
    }


def figures(root: Path, target: str, rounds: int) -> dict[str, Any]:
    """Return medians of as many processes that judge with the package in ``root``."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(root)}
    command = [sys.executable, "-P", __file__, "--one", "--target", target]
    told: list[dict[str, Any]] = []
    for _ in range(rounds + 1):
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
        told.append(json.loads(done.stdout.splitlines()[-1]))
    later = told[1:]  # the first finds no file in the page cache
    found = {name: statistics.median(one[name] for one in later) for name in later[0]}
    shares = {
        "share_of_judging": [one["guard_seconds"] / one["judging_seconds"] for one in later],
        "share_of_process": [one["guard_seconds"] / one["process_seconds"] for one in later],
    }
    return {
        **{name: round(value, 3) for name, value in found.items()},
        **{name: round(statistics.median(values), 4) for name, values in shares.items()},
    }


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path | None]:
    """Yield a folder with the files of a commit; None where git does not have it."""
    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        packed = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=False
        )
        if packed.returncode:
            yield None
            return
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        yield Path(folder)


def main() -> int:
    """Print the figures; none of them is asked to be good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--target", default=TARGET, help="the pipeline that is judged")
    parser.add_argument("--before", default=BEFORE, help="the commit to compare with")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(judged(options.target)))  # noqa: T201
        return 0
    found: dict[str, Any] = {"target": options.target, "rounds": options.rounds}
    found["today"] = figures(ROOT, options.target, options.rounds)
    with checkout(options.before) as folder:
        if folder is not None:
            before = figures(folder, options.target, options.rounds)
            found["before"] = {"commit": options.before, **before}
    for when in ("before", "today"):
        if one := found.get(when):
            print(  # noqa: T201
                f"{when}: the guard takes {one['guard_seconds']} s in {one['times']:.0f} times, "
                f"{one['share_of_judging']:.1%} of judging, {one['share_of_process']:.1%} of the "
                f"process; {one['checks']:.0f} checks reached a verdict"
            )
    if options.json:
        options.json.write_text(json.dumps({"guard": found}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
