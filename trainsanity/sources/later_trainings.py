"""Find the trainings of a script that come after the one that is judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Place = tuple[int, int | None]
"""A line, and a column of it where that is known."""


def later_trainings(file: str, lines: list[int], beside: int = 0) -> list[str]:
    """Return sentences on what the script trains besides, as far as can be known before it does.

    Args:
        file: the script.
        lines: those of it that are being executed, the innermost first: the call of ``train()``,
            and the calls of the functions around it.
        beside: how many other Trainers it has built; told where its text tells of no training.
    """
    found = [*_as_written(file, lines)]
    if beside and not found:
        others = "another Trainer" if beside == 1 else f"{beside} other Trainers"
        found.append(
            f"the script has built {others}, and ends in this call of train(): "
            "what it would train after that is not judged"
        )
    return found


def _as_written(file: str, lines: list[int]) -> Iterator[str]:
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    repeated = next((line for line in lines if _in_a_loop(tree, line)), None)
    if repeated is not None:
        yield (
            f"line {repeated} trains in a loop: judged is its first turn, before the others have "
            "changed anything"
        )
    if not lines:
        return
    calls = sorted(_trainings(tree))
    here = [call for call in calls if call[0] == lines[0]]
    around: list[Place] = [*here[:1], *((line, None) for line in lines)]
    later = [
        call
        for call in calls
        if call not in here[:1] and not any(_either_or(tree, call, place) for place in around)
    ]
    again = [call for call in later if call in here]
    if again:
        times = len(again) + 1
        yield f"line {lines[0]} calls train() {times} times: judged is the first, and no other"
    if others := sorted({line for line, _ in later} - {*lines}):
        places = ", ".join(map(str, others))
        yield (
            f"train() is also called in line {places}: judged is line {lines[0]}, which came first"
        )


def _in_a_loop(tree: ast.Module, line: int) -> bool:
    """Return whether the line belongs to a loop's body, and no function begins in between."""
    around = [node for node in ast.walk(tree) if _spans(node, line)]
    # By their first lines: of two that hold the line, the one that begins later is inside.
    inner = max(around, key=lambda node: node.lineno, default=None)  # type: ignore[attr-defined]
    return isinstance(inner, ast.For | ast.While)


def _spans(node: ast.AST, line: int) -> bool:
    if not isinstance(node, ast.For | ast.While | ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    first, last = node.body[0].lineno, node.body[-1].end_lineno or 0
    return first <= line <= last


def _trainings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Yield where ``train()`` is called of what a class or function ``...Trainer`` returned."""
    names = {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for whole in node.targets
        for target, value in _assigned(whole, node.value)
        if _makes_a_trainer(value)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "train"
            and (ast.unparse(node.func.value) in names or _makes_a_trainer(node.func.value))
        ):
            called = node.func.value
            yield called.end_lineno or node.lineno, called.end_col_offset or 0


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield each name beside what it is given; ``a, b = c, d`` gives two."""
    pair = (ast.Tuple, ast.List)
    if isinstance(target, pair) and isinstance(value, pair) and len(target.elts) == len(value.elts):
        yield from zip(target.elts, value.elts, strict=True)
    else:
        yield target, value


def _either_or(tree: ast.Module, one: Place, other: Place) -> bool:
    """Return whether two places are branches of one condition, so that only one is executed."""
    for node in ast.walk(tree):
        branches: list[list[Any]] = []
        if isinstance(node, ast.If) and node.orelse:
            branches = [node.body, node.orelse]
        elif isinstance(node, ast.IfExp):
            branches = [[node.body], [node.orelse]]
        elif isinstance(node, ast.Match):
            branches = [case.body for case in node.cases]
        in_one = [number for number, branch in enumerate(branches) if _holds(branch, one)]
        in_other = [number for number, branch in enumerate(branches) if _holds(branch, other)]
        if in_one and in_other and not {*in_one} & {*in_other}:
            return True
    return False


def _holds(branch: list[Any], place: Place) -> bool:
    """Return whether the statements or the expression of a branch span that place."""
    first, last, (line, column) = branch[0], branch[-1], place
    if column is None:
        return bool(first.lineno <= line <= last.end_lineno)
    start, end = (first.lineno, first.col_offset), (last.end_lineno, last.end_col_offset)
    return start <= (line, column) <= end


def _makes_a_trainer(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func).rpartition(".")[2].lower().endswith("trainer")
