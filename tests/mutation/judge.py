"""Judge the mutant that lies on disk: exit with 1 if a test notices it.

cosmic-ray calls this as its test command.  The tests that run the mutated line are asked, a few
broad ones and then the quick ones, then a few in two processes, until one fails or the time is
spent; they run in a process that `server.py` forks, in which torch and transformers are imported
already.
"""

from __future__ import annotations

import difflib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from coverage_map import IN_PROCESSES, Coverage

SECONDS = 60.0
"""Of tests, by their own time without a mutant, that are spent on one mutant: what lies beyond is
counted as if it noticed nothing."""
SECONDS_OF_PROCESSES = 50.0
"""Likewise of tests in two processes, which begin by importing all there is: by their time alone
they would be the last to be asked, and never be."""
NOTICED = {1, 2, -signal.SIGALRM, -signal.SIGSEGV}
"""A test failed, or could not be imported, or ran on and on, or the process died."""
UNKNOWN = 4
"""A test is not there: its name has a parameter that is computed from what was mutated."""
BROKEN = "the tests could not be run"


def changed(coverage: Coverage) -> tuple[str, set[int]]:
    """The mutated file and its lines, as they were numbered before.

    Raises:
        SystemExit: no file is mutated.
    """
    for file, source in coverage.sources.items():
        now = Path(file).read_text(encoding="utf-8")
        if now != source:
            old, new = source.splitlines(), now.splitlines()
            blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
            lines = {
                line + 1
                for kind, start, end, *_ in blocks
                if kind != "equal"
                for line in range(start, max(end, start + 1))
            }
            return file, lines
    raise SystemExit(BROKEN + ": there is no mutant on disk")


def within(tests: list[str], seconds: dict[str, float], limit: float) -> list[str]:
    """The first of them, up to ``limit`` seconds together, and one at the least."""
    spent, chosen = 0.0, []
    for test in tests:
        spent += seconds.get(test, 0.0)
        if chosen and spent > limit:
            break
        chosen.append(test)
    return chosen


def asked(path: str, folder: Path, tests: list[str]) -> int:
    """The exit code of these tests, run by the server that listens at ``path``."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        server.sendall(json.dumps({"folder": str(folder), "tests": tests}).encode() + b"\n")
        return int(json.loads(server.makefile().readline())["code"])


def main() -> int:
    """The exit code: 0 if nothing noticed."""
    coverage = Coverage.read(Path("coverage.json"))
    file, lines = changed(coverage)
    found = coverage.tests_of(file, lines)
    alone = [test for test in found if not test.startswith(IN_PROCESSES)]
    together = [test for test in found if test.startswith(IN_PROCESSES)]
    tests = within(alone, coverage.seconds, SECONDS)
    tests += within(together, coverage.seconds, SECONDS_OF_PROCESSES)
    print(file, sorted(lines), len(tests), "tests")  # noqa: T201
    if not tests:
        return 0
    server = os.environ["TRAINSANITY_MUTATION_SERVER"]
    code = asked(server, Path.cwd(), tests)
    if code == UNKNOWN:
        code = asked(server, Path.cwd(), sorted({test.partition("::")[0] for test in tests}))
    print(f"pytest ended with {code}")  # noqa: T201
    if code not in NOTICED | {0}:
        # What cosmic-ray takes for noticed: run.py looks for it.
        print(BROKEN)  # noqa: T201
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
