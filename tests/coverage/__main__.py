"""Write the coverage table: which checks reach a verdict on a healthy pipeline of each kind.

``python -m tests.coverage`` judges all kinds at the default cost, and those named on the command
line alone otherwise; ``-j N`` judges several at once.  It writes ``table.json`` beside this file,
so that a verdict that is lost shows in a diff.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from . import table


def main() -> int:
    """Judge what was asked for; 1 if a pipeline is below its floor or not healthy."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("-j", type=int, default=1, metavar="N", help="judge so many at once")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    from .kinds import KINDS

    if unknown := set(asked.kinds) - {*KINDS}:
        parser.error(
            f"no kind is called {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}"
        )
    chosen = [one for name, one in KINDS.items() if name in (asked.kinds or KINDS)]
    possible = [one for one in chosen if table.possible(one)]
    for one in chosen:
        if one not in possible:
            sys.stdout.write(f"{one.id}: left out, {one.needs} is not installed\n")
    table.load()
    bad = 0
    with ThreadPoolExecutor(asked.j) as pool:
        for one, found in zip(possible, pool.map(table.judged, possible), strict=True):
            problems = table.problems(one, found)
            bad |= bool(problems)
            sys.stdout.write("".join(f"{line}\n" for line in [table.line(one, found), *problems]))
            sys.stdout.flush()
            if not asked.dry:
                table.write(one.id, found)
    return bad


if __name__ == "__main__":
    sys.exit(main())
