"""Run attacks of ``list.md``: all, or those whose numbers are given; ``--write`` keeps results."""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from . import run, written


def main() -> int:
    """Do what the command line asks for; the exit code is 1 if a promise broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("numbers", nargs="*", metavar="NUMBER", help="as 7, or 10-20")
    parser.add_argument("--write", type=int, metavar="COLUMN", help="3: first run; 4: now")
    asked = parser.parse_args()
    broken = 0
    for number in run.numbers(asked.numbers):
        start = time.monotonic()
        result = run.one(number)
        broken += bool(result)
        words = f"{number:4d} {'broken' if result else 'held':6s} {time.monotonic() - start:5.1f} s"
        sys.stdout.write(f"{words}  {result}\n")
        sys.stdout.flush()
        if asked.write:
            written.write(number, asked.write, result)
    sys.stdout.write(f"{broken} broken\n")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
