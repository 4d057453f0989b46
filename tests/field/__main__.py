"""Judge the corpus of reported errors.

``judge`` judges what has no verdict on file, and adds it; a case that is named is judged in any
case, but its first verdict stays as it is.  With ``--column today`` everything that is asked for
is judged and written.  ``proofs`` runs the assertions of the cases, ``table`` prints the counts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from importlib import metadata
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from fixtures.field import Case, Healthy, cases, families, healthy_ones

from . import records


def main() -> int:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.field",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    judge = commands.add_parser("judge", help="judge faults, twins and healthy pipelines")
    judge.add_argument("what", nargs="*", metavar="FAMILY[:NAME]")
    judge.add_argument("--column", choices=records.FOLDERS, default="first")
    judge.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    proofs = commands.add_parser("proofs", help="run the proofs of the cases")
    proofs.add_argument("what", nargs="*", metavar="FAMILY[:NAME]")
    commands.add_parser("table", help="print the counts as a Markdown table")
    asked = parser.parse_args()
    if asked.command == "table":
        _tell(records.table())
        return 0
    bad, running, most = 0, 0, getattr(asked, "jobs", 1)
    for family, names in _wanted(parser, asked.what).items():
        bad |= running >= most and _ended_badly()
        running = min(running, most - 1) + 1
        # One process a family: what a module does when it is imported stays its own.
        if not os.fork():
            os._exit(_run(asked, family, names))
    return int(sum(_ended_badly() for _ in range(running)) > 0 or bad)


def _ended_badly() -> bool:
    """Wait for one family to end."""
    return os.waitstatus_to_exitcode(os.wait()[1]) != 0


def _wanted(parser: argparse.ArgumentParser, what: list[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for item in what or families():
        family, _, name = item.partition(":")
        if family not in families():
            parser.error(f"no family is called {family!r}; there are {', '.join(families())}")
        wanted.setdefault(family, []).extend([name] if name else [])
    return wanted


def _run(asked: argparse.Namespace, family: str, names: list[str]) -> int:
    """Do it for one family, in a process of its own; return the exit code."""
    code = 1
    try:
        warnings.simplefilter("ignore")
        importlib.import_module("transformers").Trainer  # noqa: B018 - it is loaded by that
        from . import tool

        tool.load()
        ones = [*cases(family), *healthy_ones(family)]
        if unknown := set(names) - {one.id for one in ones}:
            _tell(f"{family} has no {', '.join(sorted(unknown))}")
            return 2
        chosen = [one for one in ones if (not names or one.id in names) and _possible(one)]
        if asked.command == "proofs":
            code = _proofs([one for one in chosen if isinstance(one, Case)])
        else:
            code = _judge(asked.column, family, chosen, by_name=bool(names))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _possible(one: Case | Healthy) -> bool:
    """Whether what a case needs is installed; tell it if not."""
    from packaging.requirements import Requirement

    for text in getattr(one, "needs", "").replace(", ", " ").split():
        need = Requirement(text)
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            found = None
        if found is None or not need.specifier.contains(found, prereleases=True):
            _tell(f"left out {one.id:31} needs {text}, there is {found or 'none'}")
            return False
    return True


def _judge(column: str, family: str, ones: list[Any], *, by_name: bool) -> int:
    from . import judging

    stamp = records.stamp()
    for one in ones:
        known = records.read(column, family).get(one.id)
        keep = column == "first" and known is not None
        if keep and not by_name:
            _tell(f"{records.line(one.id, known)}  [on file]")
            continue
        if isinstance(one, Case):
            answer = records.scored(one, judging.fault_and_twin(one))
        else:
            answer = judging.healthy_one(one)
        if not keep:
            # Read again: somebody may have added records meanwhile.
            records.write(column, family, records.read(column, family) | {one.id: stamp | answer})
        _tell(f"{records.line(one.id, answer)}{'  [not written]' if keep else ''}")
    return 0


def _proofs(ones: list[Case]) -> int:
    from . import judging

    bad = 0
    for one in ones:
        wrong = judging.proven(one)
        bad |= bool(wrong)
        _tell(f"{'WRONG' if wrong else 'proven':7} {one.family}:{one.id} {wrong}")
    return bad


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
