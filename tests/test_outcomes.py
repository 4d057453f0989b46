"""What a measurement raises in the place of a value is no error, wherever errors are caught."""

from __future__ import annotations

import ast
from pathlib import Path

import trainsanity

ROOT = Path(trainsanity.__file__).parent
OUTCOMES = {"OUTCOMES", "Skip", "Blocked", "Abstain"}

ON_PURPOSE = {
    # Asked once more in the training dtype, where it skips again if it has to.
    ("measurements/model/raised.py", "in_float32"),
    # Nothing is compared without logits, whatever the reason.
    ("measurements/step/evaluation.py", "_with_logits"),
    # Raised again unless memory ran out.
    ("measurements/speed/whole_run.py", "whole_run"),
    # What it asks catches its own.
    ("measurements/step/own.py", "ask_again"),
}
"""Handlers of any error around a function that may skip."""


class Module:
    """The functions of a module, and what it imports of the package."""

    def __init__(self, path):
        self.path = path.relative_to(ROOT).as_posix()
        self.name = ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts))
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]
        self.imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.own = {one.name for one in self.functions}

    def called(self, nodes):
        """The functions called by name in these statements, as ``(module, name)``."""
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                name = node.func.id
                yield (self.name, name) if name in self.own else self.imported.get(name)


def names(handler):
    found = (
        {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else set()
    )
    return found or {"BaseException"}


def raising(modules):
    """The functions that raise an outcome, or call one that does."""
    found = {
        (module.name, function.name)
        for module in modules
        for function in module.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and getattr(node.exc.func, "id", "") in OUTCOMES
    }
    calls = {
        (module.name, function.name): {*module.called(function.body)}
        for module in modules
        for function in module.functions
    }
    while more := {one for one, of in calls.items() if one not in found and of & found}:
        found |= more
    return found


def test_no_outcome_is_taken_for_an_error():
    modules = [Module(path) for path in sorted(ROOT.rglob("*.py"))]
    known = raising(modules)
    assert len(known) > 300
    taken = {
        (module.path, function.name)
        for module in modules
        for function in module.functions
        for node in ast.walk(function)
        if isinstance(node, ast.Try) and not known.isdisjoint(module.called(node.body))
        for k, handler in enumerate(node.handlers)
        if not names(handler).isdisjoint({"Exception", "BaseException"})
        and not any(names(one) & OUTCOMES for one in node.handlers[:k])
        and not any(isinstance(n, ast.Raise) and n.exc is None for n in handler.body)
    }
    assert taken == ON_PURPOSE
