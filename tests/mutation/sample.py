"""Of all mutants of a cosmic-ray session keep a sample, drawn by a seed, and skip the others.

What no test could notice is not among those that are drawn from: annotations, which are never
evaluated, what stands under ``if TYPE_CHECKING``, the star before keyword-only parameters, and the
``strict=True`` of a ``zip`` over what is equally long.  Nor is ``==`` in place of ``is`` or the
reverse: whether equal words or small numbers are one object is the interpreter's affair.  Nor is
what is no Python any more, which every test would notice.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.tools.filters.filter_app import FilterApp
from cosmic_ray.work_item import WorkerOutcome, WorkResult

IDENTITY = {
    "core/ReplaceComparisonOperator_Eq_Is",
    "core/ReplaceComparisonOperator_NotEq_IsNot",
    "core/ReplaceComparisonOperator_Is_Eq",
    "core/ReplaceComparisonOperator_IsNot_NotEq",
}

Span = tuple[int, int, int, int]


class Sample(FilterApp):
    """``python sample.py SESSION --size 200 --seed 0``."""

    def description(self) -> str:
        """For --help."""
        return str(__doc__)

    def add_args(self, parser: argparse.ArgumentParser) -> None:
        """Size and seed."""
        parser.add_argument("--size", type=int, default=200)
        parser.add_argument("--seed", type=int, default=0)

    def filter(self, work_db: Any, args: argparse.Namespace) -> None:
        """Skip all but the sample."""
        spans: dict[Path, list[Span]] = {}
        seen = []
        skipped = []
        for item in work_db.work_items:
            (mutation,) = item.mutations
            path = Path(mutation.module_path)
            if path not in spans:
                spans[path] = list(unseen(path.read_text(encoding="utf-8")))
            place = (*mutation.start_pos, *mutation.end_pos)
            same = mutation.operator_name in IDENTITY
            hidden = same or any(_inside(place, span) for span in spans[path])
            target = skipped if hidden else seen
            target.append((str(path), mutation.operator_name, mutation.occurrence, item.job_id))
        # By what they are, not by their random ids: the same tree gives the same sample.
        seen.sort()
        random.Random(args.seed).shuffle(seen)
        valid = (job for *mutant, job in seen if runs(*mutant))
        chosen = set(itertools.islice(valid, args.size))
        others = [job for *_, job in [*seen, *skipped] if job not in chosen]
        work_db.set_multiple_results(
            others, WorkResult(output="not drawn", worker_outcome=WorkerOutcome.SKIPPED)
        )
        Path("population").write_text(str(len(seen)), encoding="utf-8")
        print(f"{len(chosen)} of {len(seen)} mutants")  # noqa: T201


def runs(path: str, operator: str, occurrence: int) -> bool:
    """Whether the mutant is Python: the star of keyword-only parameters is no operator."""
    source = Path(path).read_text(encoding="utf-8")
    mutant = mutate_code(source, get_operator(operator)(), occurrence)
    try:
        compile(mutant or "", path, "exec")
    except SyntaxError:
        return False
    return mutant is not None


def unseen(source: str) -> Iterator[Span]:
    """Where the interpreter never looks."""
    for number, line in enumerate(source.splitlines(), 1):
        for star in re.finditer(r"(?<=[(\s])\*(?=,)", line):
            yield (number, star.start(), number, star.end())
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            if (found := getattr(node, name, None)) is not None:
                yield _span(found)
        if isinstance(node, ast.keyword) and node.arg == "strict":
            yield _span(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield _span(node)


def _span(node: Any) -> Span:
    return (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)


def _inside(place: Any, span: Span) -> bool:
    return span[:2] <= tuple(place[:2]) and tuple(place[2:]) <= span[2:]


if __name__ == "__main__":
    Sample().main()
