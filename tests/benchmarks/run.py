"""All benchmarks, one table: `python tests/benchmarks/run.py [NAME ...] [--json FILE]`.

Each module beside this one is a benchmark: a script that takes `--json FILE` and exits with 1 if
its figures are not good enough.  They run one after the other, each in a process of its own; at the
end stands one table of all, and the file has all their figures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
COMMAND = "python tests/benchmarks/run.py"
"""What the documentation says of the figures; `tox -e bench` runs it in its own environment."""

Row = tuple[str, str, str, str, str]
COLUMNS = ("what", "measured", "beside", "ratio", "limit")


def scan(found: list[dict[str, Any]]) -> Iterator[Row]:
    """The dataset stage beside bare reductions."""
    last = found[-1]
    told = f"dataset stage, {last['rows']:,} rows"
    yield (told, f"{last['seconds']:.2f} s", f"numpy {last['numpy_seconds']:.2f} s",
           f"{last['of_numpy_speed']:.2f} of its speed", "at least 0.5")  # fmt: skip
    yield (f"{told}, memory", f"{last['extra_mib']:.0f} MiB", "", "", "below 1024 MiB")


def scan_roles(found: list[dict[str, Any]]) -> Iterator[Row]:
    """Pairs and images beside a bare sum."""
    for row in found:
        told = f"scan of {row['rows']:,} {row['what']}, {row['gib']} GiB"
        ratio = f"{row['seconds'] / row['bare_seconds']:.2f} times"
        yield (told, f"{row['seconds']:.2f} s", f"sum {row['bare_seconds']:.2f} s", ratio, "")
        yield (f"{told}, memory", f"{row['extra_mib']:.0f} MiB", "", "", "below 1024 MiB")


def scan_targets(found: list[dict[str, Any]]) -> Iterator[Row]:
    """Targets of conversations beside a bare read of the same buffers."""
    for row in found:
        told = f"targets of {row['rows']:,} conversations, {row['column']}, {row['gib']} GiB"
        yield (told, f"{row['seconds']:.2f} s, {row['rows_per_second']:,} rows a second",
               f"sum {row['bare_seconds']:.2f} s, shares alone {row['least_seconds']:.2f} s",
               f"{row['of_bare']:.1f} and {row['of_least']:.1f} times", "at most 10")  # fmt: skip
        yield (f"{told}, memory", f"{row['extra_mib']:.0f} MiB", "", "", "below 1024 MiB")


def gate(found: dict[str, Any]) -> Iterator[Row]:
    """`trainsanity run` beside the imports of a training script."""
    yield ("gate on the tiny pipeline", f"{found['gate_seconds']} s",
           f"imports {found['imports_seconds']} s", f"{found['ratio']} times",
           "at most 2")  # fmt: skip


def guard(found: dict[str, Any]) -> Iterator[Row]:
    """Snapshots, comparing and putting back, in a process that judges."""
    titles = {
        "today": "the tiny pipeline",
        "before": "the tiny pipeline, before it walked",
        "full_size": "Qwen3-4B at full size",
    }
    for when, title in titles.items():
        if one := found.get(when):
            told = (
                f"guard in judging {title}{f' ({device})' if (device := one.get('device')) else ''}"
            )
            yield (f"{told}, {one['checks']:.0f} verdicts", f"{one['guard_seconds']} s",
                   f"judging {one['judging_seconds']} s, whole process {one['process_seconds']} s",
                   f"{one['share_of_judging']:.1%} and {one['share_of_process']:.1%}",
                   "")  # fmt: skip


def prove(found: dict[str, Any]) -> Iterator[Row]:
    """`run` and `run --prove-fix` on the incident beside `run --no-prove-fix`."""
    bare = f"run --no-prove-fix {found['seconds']} s"
    for name, kind, processor in (
        ("run on the tiny incident", "default_seconds", "default_processor_ratio"),
        ("run --prove-fix on the tiny incident", "proved_seconds", "processor_ratio"),
    ):
        ratio = f"{found[processor]} times its processor time"
        yield (name, f"{found[kind]} s", bare, ratio, "at most 2")


def callback(found: dict[str, Any]) -> Iterator[Row]:
    """`SanityCallback` beside the step that it watches."""
    yield ("SanityCallback in a step", f"{found['inside_ms']:.2f} ms",
           f"step {found['step_ms']:.0f} ms", f"{found['share']:.3%}", "below 0.5%")  # fmt: skip
    pairs = f"{found['ratio']:+.2%} ± {found['standard_error']:.2%}"
    yield (f"watched against unwatched, {found['pairs']} pairs", "", "", pairs,
           "below 0.5% by 4 errors")  # fmt: skip


def diagnose(found: dict[str, Any]) -> Iterator[Row]:
    """A long log beside its bare lines."""
    long = found["long"]
    told = f"diagnose, {long['megabytes']:.0f} MB log"
    took, reading = long["processor_seconds"], long["read_processor_seconds"]
    ratio = f"{took / max(reading, 0.01):.1f} times its processor time"
    yield (told, f"{long['seconds']} s, processor {took} s",
           f"reading {long['read_seconds']} s, processor {reading} s", ratio,
           "at most 10")  # fmt: skip
    yield (f"{told}, memory", f"{long['peak_bytes'] / 2**20:.0f} MiB",
           f"half of it {found['short']['peak_bytes'] / 2**20:.0f} MiB",
           f"{long['peak_bytes'] / found['short']['peak_bytes']:.2f} times",
           "at most 1.1, below 256 MiB")  # fmt: skip


def hours(found: dict[str, Any]) -> Iterator[Row]:
    """What a rehearsal predicts beside training."""
    told, took = found["predicted"], found["trained"]
    name = found["target"].rpartition(":")[2]
    yield (f"seconds a step, as rehearsed: {name}, {told['device']}",
           f"{told['step_seconds']:.3f} ± {told['step_error']:.3f} s",
           f"trained, steps 2 to {took['steps']}: {took['step_seconds']:.3f} s",
           f"{found['ratio']:.2f} times", "0.9 to 1.1")  # fmt: skip


def collect(found: dict[str, Any]) -> Iterator[Row]:
    """An idle plugin beside none."""
    yield ("pytest --collect-only with the plugin", f"{found['with_plugin_ms']} ms",
           f"without {found['without_ms']} ms",
           f"{found['difference_ms']:+} ± {found['standard_error_ms']} ms",
           "below 30 ms")  # fmt: skip


ROWS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "scan": scan,
    "scan_roles": scan_roles,
    "scan_targets": scan_targets,
    "gate": gate,
    "guard": guard,
    "prove": prove,
    "callback": callback,
    "diagnose": diagnose,
    "hours": hours,
    "collect": collect,
}
"""By the name of the benchmark, what it adds to the table."""


def table(found: dict[str, Any]) -> str:
    """The figures of all benchmarks in Markdown."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|---|"]
    for name, figures in found.items():
        lines += [f"| {' | '.join(row)} |" for row in ROWS[name](figures)]
    return "\n".join(lines)


def figures(file: Path, name: str) -> Any:
    """What a benchmark wrote, under its own name or bare."""
    document = json.loads(file.read_text(encoding="utf-8"))
    return document.get(name, document)


def document(found: dict[str, Any], before: Path | None) -> dict[str, Any]:
    """Figures with where they were taken; those of an earlier document keep its date."""
    today = datetime.date.today().isoformat()
    where: dict[str, Any] = {"python": platform.python_version(), "cores": os.cpu_count()}
    if before is None:
        return {"where": {**where, "date": today}, "figures": found}
    old = json.loads(before.read_text(encoding="utf-8"))
    later = {**old["where"].get("later", {}), **dict.fromkeys(found, today)}
    figures = {**old["figures"], **found}
    kept = {name: figures[name] for name in ROWS if name in figures}
    return {"where": {**old["where"], "later": later}, "figures": kept}


def there() -> list[str]:
    """The benchmarks in this folder, in the order of the table."""
    return [name for name in ROWS if (HERE / f"{name}.py").exists()]


def main() -> int:
    """Run them; 1 if any is not good enough."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(there())}")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--merge", action="store_true", help="keep the other figures of that file")
    options = parser.parse_args()
    if unknown := set(options.names) - set(there()):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {}
    failed = []
    for name in options.names or there():
        with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
            file = Path(folder) / "figures.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
            code = subprocess.run(command, check=False).returncode
            if code:
                failed.append(name)
            if file.exists():
                found[name] = figures(file, name)
    print(f"\n{table(found)}")  # noqa: T201
    if failed:
        print(f"\nnot good enough: {', '.join(failed)}")  # noqa: T201
    if options.json:
        text = json.dumps(document(found, options.json if options.merge else None), indent=2)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
