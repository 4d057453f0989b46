"""Find the trainings of a script that come after the one that is judged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def later_trainings(file: str, lines: list[int]) -> list[str]:
    """Return sentences on what the script trains besides, as far as its text tells.

    Args:
        file: the script.
        lines: those of it that are being executed, the innermost first: the call of ``train()``,
            and the calls of the functions around it.
    """
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    found = []
    repeated = next((line for line in lines if _in_a_loop(tree, line)), None)
    if repeated is not None:
        found.append(
            f"line {repeated} trains in a loop: judged is its first turn, before the others have "
            "changed anything"
        )
    others = sorted({call for call in _trainings(tree) if call not in lines})
    if others and lines:
        places = ", ".join(map(str, others))
        found.append(
            f"train() is also called in line {places}: judged is line {lines[0]}, which came first"
        )
    return found


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


def _trainings(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that call ``train()`` of what a class or function ``...Trainer`` returned."""
    names = {
        ast.unparse(target)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and _makes_a_trainer(node.value)
        for target in node.targets
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "train"
            and (ast.unparse(node.func.value) in names or _makes_a_trainer(node.func.value))
        ):
            yield node.func.value.end_lineno or node.lineno


def _makes_a_trainer(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    return ast.unparse(node.func).rpartition(".")[2].lower().endswith("trainer")
