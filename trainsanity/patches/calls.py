"""Change calls and classes of the user's file: keywords set and taken out, overrides removed."""

from __future__ import annotations

import ast
import re

from trainsanity.patches.places import Draft
from trainsanity.patches.text import NoLine, SourceFile
from trainsanity.repairs import LIBRARIES


def set_keyword(draft: Draft, call: ast.Call, name: str, value: str) -> str:
    """Give a call a keyword argument; return its place.

    Raises:
        NoLine: it has ``**`` arguments, which may have the keyword already.
    """
    file = draft.file
    for keyword in call.keywords:
        if keyword.arg == name:
            draft.edit(file, *file.span(keyword.value), value)
            return f"{file.name}:{keyword.value.lineno}"
    if any(keyword.arg is None for keyword in call.keywords):
        raise NoLine(f"line {call.lineno} of {file.name} passes ** arguments")
    given: list[ast.AST] = [*call.args, *call.keywords]
    if not given:
        end = file.span(call)[1] - 1
        draft.edit(file, end, end, f"{name}={value}")
        return f"{file.name}:{call.lineno}"
    last = max(given, key=lambda one: file.span(one)[1])
    start, end = file.span(last)
    line = file.line_start(last.lineno)  # type: ignore[attr-defined]
    before = file.text[line:start]
    # One argument a line stays one argument a line.
    between = f",{file.newline}{before}" if not before.strip() else ", "
    draft.edit(file, end, end, f"{between}{name}={value}")
    return f"{file.name}:{last.lineno}"  # type: ignore[attr-defined]


def without_keyword(draft: Draft, keyword: ast.keyword) -> str:
    """Take a keyword argument out of its call, its line with it; return its place."""
    file = draft.file
    text = file.text
    start, end = file.span(keyword)
    if comma := re.match(r"\s*,", text[end:]):
        end += comma.end()
        line = file.line_start(keyword.lineno)
        rest = re.match(r"[ \t]*\r?\n", text[end:])
        if rest and not text[line:start].strip():
            start, end = line, end + rest.end()
        else:
            end += len(text[end:]) - len(text[end:].lstrip(" \t"))
    elif before := re.search(r",\s*$", text[:start]):
        start = before.start()
    draft.edit(file, start, end, "")
    return f"{file.name}:{keyword.lineno}"


def without_method(draft: Draft, kind: type, name: str) -> str | None:
    """Take a method out of a class of the user's; return its place, None if it has none.

    Raises:
        NoLine: the class that has it is a library's, or its file does not show it.
    """
    owner = next((one for one in kind.__mro__ if name in vars(one)), None)
    if owner is None or owner.__module__.partition(".")[0] in LIBRARIES:
        return None
    code = getattr(vars(owner)[name], "__code__", None)
    if code is None:
        raise NoLine(f"{name} of {owner.__name__} is no plain method")
    file = draft.read(code.co_filename)
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for one in node.body:
            if isinstance(one, ast.FunctionDef) and _first(one) == code.co_firstlineno:
                return _removed(draft, file, node, one)
    raise NoLine(f"{name} of {owner.__name__} is not written in {file.name}")


def _first(one: ast.FunctionDef) -> int:
    return min([one.lineno, *(d.lineno for d in one.decorator_list)])


def _removed(draft: Draft, file: SourceFile, owner: ast.ClassDef, one: ast.FunctionDef) -> str:
    where = f"{file.name}:{one.lineno}"
    start, end = file.line_start(_first(one)), file.line_start((one.end_lineno or one.lineno) + 1)
    if len(owner.body) == 1:
        draft.edit(file, start, end, f"{file.indent(one)}pass{file.newline}")
        return where
    # The blank lines before it go with it.
    before = re.search(r"(?:\r?\n)(?:[ \t]*\r?\n)+$", file.text[:start])
    if before is not None and one is not owner.body[0]:
        start = before.start() + len(file.newline)
    draft.edit(file, start, end, "")
    return where
