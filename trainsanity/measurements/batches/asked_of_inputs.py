"""Keys that a user's ``compute_loss`` looks for in its batch, read from its source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

from trainsanity.isolation.overrides import LIBRARIES

METHODS = {"get", "pop", "setdefault"}


def asked_of_inputs(trainer: Any) -> dict[str, str]:
    """Return the keys that overridden steps read from their inputs, each with the method's name.

    ``inputs["key"]``, ``inputs.get("key")``, ``inputs.pop("key")`` and ``"key" in inputs`` count,
    for the parameter that holds the batch. Nothing is known of code without source.
    """
    found: dict[str, str] = {}
    for method, place in (("compute_loss", 1), ("training_step", 1)):
        function = getattr(type(trainer), method, None)
        if function is None or function.__module__.partition(".")[0] in LIBRARIES:
            continue
        try:
            names = list(inspect.signature(function).parameters)
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, ValueError, SyntaxError):
            continue
        if len(names) > place + 1:
            for key in _keys(tree, names[place + 1]):
                found.setdefault(key, method)
    return found


def _keys(tree: ast.AST, name: str) -> Iterator[str]:
    """Yield constant keys that are read from the variable of that name."""

    def is_it(node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == name

    for node in ast.walk(tree):
        key: ast.AST | None = None
        if isinstance(node, ast.Subscript) and is_it(node.value):
            key = node.slice if isinstance(node.ctx, ast.Load) else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if is_it(node.func.value) and node.func.attr in METHODS and node.args:
                key = node.args[0]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            key = node.left if is_it(node.comparators[0]) else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value
