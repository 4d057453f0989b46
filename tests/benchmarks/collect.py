"""What the plugin costs a project that does not ask for it: `collect.py [PAIRS] [--json FILE]`.

`pytest --collect-only` on a small foreign project, as a whole process, with the plugin and with
`-p no:trainsanity`, turn about: each pair is measured under the same load. Told are the medians and
the median difference of the pairs with its standard error. Exits with 1 if the difference is 30 ms
or more by more than two standard errors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 0.030
"""Seconds, as the project promises."""

TESTS = "import pytest\n\n" + "".join(
    f"@pytest.mark.parametrize('n', range(10))\ndef test_{k}(n):\n    assert n >= 0\n\n"
    for k in range(10)
)


def seconds(project: Path, *options: str) -> float:
    """How long one process takes."""
    start = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
        ],
        cwd=project,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


def main() -> int:
    """Print the figures; the exit code says whether they are good enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=int, nargs="?", default=20)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    plugin, without = [], []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "pytest.ini").write_text("[pytest]\n")
        for k in range(3):
            (project / f"test_{k}.py").write_text(TESTS)
        seconds(project), seconds(project, "-p", "no:trainsanity")  # the files are cached now
        for pair in range(asked.pairs):
            for loaded in (pair % 2 == 0, pair % 2 == 1):
                if loaded:
                    plugin.append(seconds(project))
                else:
                    without.append(seconds(project, "-p", "no:trainsanity"))
    differences = [one - other for one, other in zip(plugin, without, strict=True)]
    median = statistics.median(differences)
    # Of a median, for a normal spread.
    error = math.sqrt(math.pi / 2) * statistics.stdev(differences) / math.sqrt(len(differences))
    told = {
        "with_plugin_ms": round(1e3 * statistics.median(plugin), 1),
        "without_ms": round(1e3 * statistics.median(without), 1),
        "difference_ms": round(1e3 * median, 1),
        "standard_error_ms": round(1e3 * error, 1),
        "ratio": round(statistics.median(plugin) / statistics.median(without), 3),
        "pairs": asked.pairs,
    }
    print(  # noqa: T201
        f"collecting takes {told['with_plugin_ms']} ms with the plugin and {told['without_ms']} "
        f"without: {told['difference_ms']} +- {told['standard_error_ms']} ms in {asked.pairs} pairs"
    )
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return int(median - 2 * error >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
