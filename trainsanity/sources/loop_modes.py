"""What the source of a script's own loop tells of what is behind the two steps that are judged.

Whether the model is left in eval mode, and how many epochs there are.  While the steps are judged
the frames of the loop are alive: they tell the line, its file the loops around it, and names what
is meant there.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from trainsanity.isolation.overrides import LIBRARIES
from trainsanity.objectives.loss_places import OWN
from trainsanity.sources.loop_tracks import unwrapped_module

Loop = ast.For | ast.While
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Around:
    """A loop around an optimizer step.

    Attributes:
        loop: its syntax.
        frame: in which it runs.
        tree: of the whole file.
    """

    loop: Loop
    frame: Any
    tree: ast.Module


def left_in_eval(frame: Any, model: Any) -> str:
    """Return where a loop calls ``model.eval()`` each time round and ``train()`` nowhere again.

    Args:
        frame: inside an optimizer step of the loop.
        model: the module that is trained.

    Returns:
        ``file:line``; empty where it goes back to training mode, or nothing tells.
    """
    around = [*_around(frame)]
    trees = {id(one.tree): one.tree for one in around}
    for tree in _trees_beside(around):
        trees.setdefault(id(tree), tree)
    for one in around:
        line = _evaluated(one, model)
        if line and not _trains_again(one, around, trees.values()):
            return f"{os.path.basename(one.frame.f_code.co_filename)}:{line}"
    return ""


def epochs_of(frame: Any) -> int | None:
    """Return how often a script goes through its loop over batches; None where that is not plain.

    Args:
        frame: inside an optimizer step of the loop.
    """
    around = [*_around(frame)][:2]
    if len(around) < 2 or isinstance(around[0].loop, ast.While):
        return None
    leaves = (ast.Break, ast.Return)
    if any(isinstance(node, leaves) for one in around for node in ast.walk(one.loop)):
        return None
    names = [{**one.frame.f_globals, **one.frame.f_locals} for one in around]
    if _rounds(around[0].loop, names[0]) is not None:
        return None
    return _rounds(around[1].loop, names[1])


# --- loops ---------------------------------------------------------------------------------------


def _around(frame: Any) -> Iterator[Around]:
    """Yield the loops around a step, the innermost first."""
    trees: dict[str, ast.Module | None] = {}
    begun = False
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == OWN and begun:
            return
        if package not in LIBRARIES and package != OWN:
            begun = True
            file = frame.f_code.co_filename
            tree = trees.setdefault(file, _parsed(file))
            if tree is not None:
                loops = _loops(tree, frame.f_lineno, frame.f_code.co_name)
                yield from (Around(loop, frame, tree) for loop in reversed(loops))
        frame = frame.f_back


def _parsed(file: str) -> ast.Module | None:
    try:
        with open(file, encoding="utf-8") as source:
            return ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):  # a notebook's cell, a compiled file
        return None


def _loops(tree: ast.Module, line: int, function: str) -> list[Loop]:
    """Return the loops of one function around a line of it, the outermost first."""
    found: list[Loop] = []
    name, waiting = "<module>", list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if not getattr(node, "lineno", line + 1) <= line <= (getattr(node, "end_lineno", 0) or 0):
            continue
        if isinstance(node, Function):
            found, name = [], node.name
        elif isinstance(node, Loop):
            found.append(node)
        waiting = list(ast.iter_child_nodes(node))
    return found if name == function else []


def _trees_beside(around: list[Around]) -> Iterator[ast.Module]:
    """Yield the other modules of the script's folder that are loaded: one may change modes."""
    folders = {os.path.dirname(os.path.abspath(one.frame.f_code.co_filename)) for one in around}
    for module in [*sys.modules.values()]:
        file = vars(module).get("__file__") if isinstance(module, type(sys)) else None
        if not isinstance(file, str) or not file.endswith(".py") or "site-packages" in file:
            continue
        if any(os.path.abspath(file).startswith(folder + os.sep) for folder in folders):
            tree = _parsed(file)
            if tree is not None:
                yield tree


# --- eval ----------------------------------------------------------------------------------------


def _evaluated(around: Around, model: Any) -> int:
    """Return the line of a call in the loop after which the model is in eval mode; or 0."""
    names = {**around.frame.f_globals, **around.frame.f_locals}
    if _rounds(around.loop, names) == 1:
        return 0
    assigned = _assigned(around.loop)
    for call in _calls_each_round(around.loop.body):
        owner = _put_in_eval(call)
        if owner is not None:
            if not _made_anew(owner, assigned) and _is(_value(owner, names), model):
                return call.lineno
        elif isinstance(call.func, ast.Name):
            called = _function(around.tree, call.func.id)
            if called is not None and _evaluates(called, call, names, assigned, model):
                return call.lineno
    return 0


def _evaluates(
    called: Function, call: ast.Call, names: dict[str, Any], assigned: set[str], model: Any
) -> bool:
    """Return whether a function of the script puts the model that it is given into eval mode."""
    parameters = [one.arg for one in (*called.args.posonlyargs, *called.args.args)]
    given = dict(zip(parameters, call.args, strict=False))
    given.update({one.arg: one.value for one in call.keywords if one.arg is not None})
    inside = _assigned(called)
    for one in _calls_each_round(called.body):
        owner = _put_in_eval(one)
        if owner is None or _made_anew(owner, inside):
            continue
        if isinstance(owner, ast.Name) and owner.id in given:
            owner = given[owner.id]
        elif _root(owner) in parameters:
            continue
        if not _made_anew(owner, assigned) and _is(_value(owner, names), model):
            return True
    return False


def _calls_each_round(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Yield the calls of a block that are made each time, or each so many times.

    What ends a loop behind it is made once.
    """
    if any(isinstance(one, ast.Break | ast.Return | ast.Raise) for one in body[:-1]):
        return
    if body and isinstance(body[-1], ast.Break | ast.Raise):
        return
    for one in body:
        if isinstance(one, ast.If):
            regular = any(isinstance(node, ast.Mod) for node in ast.walk(one.test))
            yield from _calls_each_round(one.body) if regular else ()
        elif isinstance(one, ast.With | ast.For | ast.While | ast.Try):
            yield from _calls_each_round(one.body)
        elif not isinstance(one, Function | ast.ClassDef):
            yield from (node for node in ast.walk(one) if isinstance(node, ast.Call))


def _put_in_eval(call: ast.Call) -> ast.expr | None:
    """Return what ``eval()`` is called of; None where another function is called."""
    function = call.func
    if isinstance(function, ast.Attribute) and function.attr == "eval" and not call.args:
        return function.value
    return None


def _is(found: Any, model: Any) -> bool:
    import torch

    if not issubclass(type(found), torch.nn.Module):
        return False
    return unwrapped_module(found) is model or any(one is model for one in found.modules())


# --- train ---------------------------------------------------------------------------------------


def _trains_again(one: Around, around: list[Around], trees: Iterable[ast.Module]) -> bool:
    """Return whether ``train()`` may be called in the loop, or in a function that it calls.

    All functions of the script may, but for those that the loop stands in: what they do beside it
    they do once.
    """
    once: set[int] = set()
    position = around.index(one)
    outside = {outer.frame.f_code.co_name for outer in around[position:]}
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, Function):
                continue
            if node.name in outside and tree in [outer.tree for outer in around[position:]]:
                once.update(map(id, ast.walk(node)))
    inside = {id(node) for node in ast.walk(one.loop)}
    for tree in trees:
        for node in ast.walk(tree):
            if not _is_train(node):
                continue
            if id(node) in inside:
                return True
            if id(node) not in once and _in_function(tree, node):
                return True
    return False


def _is_train(node: ast.AST) -> bool:
    """Return whether a mode is set, by a call or by hand."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        off = node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value is False
        return node.func.attr == "train" and not off
    return isinstance(node, ast.Attribute) and node.attr == "training" and isinstance(
        node.ctx, ast.Store
    )  # fmt: skip


def _in_function(tree: ast.Module, node: ast.AST) -> bool:
    functions = (one for one in ast.walk(tree) if isinstance(one, Function | ast.Lambda))
    return any(any(inner is node for inner in ast.walk(one)) for one in functions)


# --- names ---------------------------------------------------------------------------------------


def _function(tree: ast.Module, name: str) -> Function | None:
    return next(
        (one for one in ast.walk(tree) if isinstance(one, Function) and one.name == name), None
    )


def _assigned(block: ast.AST) -> set[str]:
    """Return the names, and attributes of names, that a block gives values to."""
    return {
        ast.unparse(node)
        for node in ast.walk(block)
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def _made_anew(node: ast.AST, assigned: set[str]) -> bool:
    """Return whether a name, or what it is an attribute of, is among those with new values."""
    while isinstance(node, ast.Attribute):
        if ast.unparse(node) in assigned:
            return True
        node = node.value
    return ast.unparse(node) in assigned


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.AST, names: dict[str, Any]) -> Any:
    """Return what a name, or an attribute of one, stands for; nothing of the user's is called."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = _value(node.value, names)
    held = getattr(owner, "__dict__", {})
    return held.get(node.attr, held.get("_modules", {}).get(node.attr))


def _rounds(loop: Loop, names: dict[str, Any]) -> int | None:
    """Return how often a loop over a range runs; None where that is not plain."""
    if isinstance(loop, ast.While) or not isinstance(loop.iter, ast.Call):
        return None
    bounds = [_value(one, names) for one in loop.iter.args]
    if _root(loop.iter.func) != "range" or not all(isinstance(one, int) for one in bounds):
        return None
    return len(range(*bounds)) if 0 < len(bounds) < 4 else None
