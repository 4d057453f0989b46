"""Find the lines that build and train: the Trainer's call, that of its arguments, and ``train()``.

Only what was seen is asked: the frames of the script, which is still in its call of ``train()``,
or the factory's code; and the text of their files.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from trainsanity.patches.text import Edit, NoLine, SourceFile

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

OWN = str(Path(__file__).parents[1])


class Draft:
    """Edits of the user's files, as they are found; the lines before ``train()`` come last.

    Attributes:
        pipeline: that they repair.
        file: the one that trains, or has the factory.
        trainer: the expression that is the Trainer where lines are added.
        seen: what names mean there, as far as a running script shows it.
    """

    def __init__(
        self, pipeline: Pipeline, file: SourceFile, at: ast.stmt, seen: dict[str, Any]
    ) -> None:
        self.pipeline, self.file, self.seen = pipeline, file, seen
        self.trainer = ""
        self.indent = file.indent(at)
        self._at = at
        self._after = False
        self._hoisted: ast.Call | None = None
        self._files = {file.path: file}
        self._edits: dict[str, list[Edit]] = {}
        self._blocks: list[tuple[str, ...]] = []

    @classmethod
    def before_train(
        cls, pipeline: Pipeline, file: SourceFile, call: ast.Call, seen: dict[str, Any]
    ) -> Draft:
        """Add lines before the statement that has this call of ``train()``."""
        draft = cls(pipeline, file, _statement(file, call), seen)
        assert isinstance(call.func, ast.Attribute)
        owner = call.func.value
        if isinstance(owner, ast.Call):
            draft._hoist(owner)
        else:
            draft.trainer = file.segment(owner)
        return draft

    @classmethod
    def where_built(cls, pipeline: Pipeline, file: SourceFile, call: ast.Call) -> Draft:
        """Add lines after the Trainer is built: before it is returned, or right after."""
        at = _statement(file, call)
        targets = at.targets if isinstance(at, ast.Assign) else []
        if len(targets) == 1 and at.value is call and isinstance(targets[0], ast.Name):  # type: ignore[attr-defined]
            name = targets[0].id
            last = _returned(file, at, name)
            draft = cls(pipeline, file, last or at, {})
            draft.trainer, draft._after = name, last is None
            return draft
        draft = cls(pipeline, file, at, {})
        draft._hoist(call)
        return draft

    def _hoist(self, call: ast.Call) -> None:
        self._hoisted = call
        self.trainer = self.file.fresh("trainer")

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Take back what was added if not all of it can be."""
        edits = {path: list(edits) for path, edits in self._edits.items()}
        blocks = list(self._blocks)
        try:
            yield
        except NoLine:
            self._edits, self._blocks = edits, blocks
            raise

    @property
    def place(self) -> str:
        """Where the lines go, for the reader."""
        return f"{self.file.name}:{self._at.lineno}"

    @property
    def names_at_top(self) -> set[str]:
        """Names that the file's own imports bind at its top level."""
        found = (one for one in self.file.tree.body if isinstance(one, ast.Import))
        return {(a.asname or a.name.partition(".")[0]) for one in found for a in one.names}

    def statement_of(self, node: ast.AST) -> ast.stmt:
        """Return the simple statement that a node of the file is in."""
        return _statement(self.file, node)

    def read(self, path: str) -> SourceFile:
        """Return one of the user's files."""
        path = os.path.realpath(path)
        if not is_users(path):
            raise NoLine(f"{os.path.basename(path)} is a library's")
        if path not in self._files:
            self._files[path] = SourceFile(path)
        return self._files[path]

    def edit(self, file: SourceFile, start: int, end: int, text: str) -> None:
        """Change characters of a file."""
        one = Edit(start, end, text)
        edits = self._edits.setdefault(file.path, [])
        if one not in edits:
            edits.append(one)

    def add(self, *lines: str) -> None:
        """Add lines where the Trainer is complete and does not train yet."""
        if lines not in self._blocks:
            self._blocks.append(lines)

    def calls(self, what: Callable[[str, Any], bool]) -> list[ast.Call]:
        """Return the file's calls of what a question says yes to.

        Args:
            what: asked with the last name of what is called and, where a module's globals show
                it, what that is.
        """
        return [
            node
            for node in ast.walk(self.file.tree)
            if isinstance(node, ast.Call)
            and (name := last_name(node.func))
            and what(name, self._meaning(node.func))
        ]

    def call_of(self, one: Any) -> ast.Call | None:
        """Return the only call in the file that can have built an object; None if unclear."""
        kind = type(one)
        found = self.calls(lambda name, meant: name == kind.__name__ if meant is None
                           else meant is kind)  # fmt: skip
        return found[0] if len(found) == 1 else None

    def _meaning(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            return self.seen.get(node.id)
        if isinstance(node, ast.Attribute):
            return vars_of(self._meaning(node.value)).get(node.attr)
        return None

    def diff(self, folder: str) -> tuple[str, tuple[str, ...]]:
        """Return the unified diff of all files, with names that begin at a folder, and the files.

        Raises:
            NoLine: a file lies elsewhere, or edits overlap.
        """
        edits = {path: list(found) for path, found in self._edits.items()}
        if self._blocks:
            self._insert(edits.setdefault(self.file.path, []))
        parts = []
        for path in sorted(edits):
            name = os.path.relpath(path, os.path.realpath(folder))
            if name.startswith(os.pardir):
                raise NoLine(f"{path} lies outside of {folder}: call trainsanity in its folder")
            parts.append(self._files[path].diff(edits[path], Path(name).as_posix()))
        return "".join(parts), tuple(sorted(edits))

    def _insert(self, edits: list[Edit]) -> None:
        file, newline = self.file, self.file.newline
        lines = "".join(
            f"{self.indent}{one}".rstrip() + newline for block in self._blocks for one in block
        )
        if self._hoisted is None:
            line = self._at.end_lineno or self._at.lineno
            at = file.line_start(line + 1 if self._after else self._at.lineno)
            if self._after and not file.text.endswith("\n", 0, at):
                lines = newline + lines
            edits.append(Edit(at, at, lines))
            return
        start, end = file.span(self._hoisted)
        inside = [one for one in edits if start <= one.start and one.end <= end]
        call = file.edited(inside, start, end)
        edits[:] = [one for one in edits if one not in inside]
        first = file.span(self._at)[0]
        made = f"{self.trainer} = {call}{newline}{lines}{self.indent}"
        # What is before the call in its statement, such as `return`, stays before its name.
        edits.append(Edit(first, end, f"{made}{file.text[first:start]}{self.trainer}"))


def draft_of(pipeline: Pipeline) -> Draft:
    """Return an empty draft of the script or factory that a pipeline comes from.

    Raises:
        NoLine: it has no Trainer, or nobody knows where that is built or trains.
    """
    if pipeline.trainer is None:
        raise NoLine("a loop of one's own is repaired where its parts are built")
    if pipeline.source is not None:
        return _in_script(pipeline)
    return _in_factory(pipeline)


def _in_script(pipeline: Pipeline) -> Draft:
    for frame in _frames(sys._getframe()):
        call = _call_at(frame)
        if call is None or not isinstance(call[1].func, ast.Attribute):
            continue
        file, node = call
        seen = {**frame.f_globals, **frame.f_locals}
        owner = node.func.value  # type: ignore[attr-defined]
        if node.func.attr != "train":  # type: ignore[attr-defined]
            continue
        if isinstance(owner, ast.Name) and seen.get(owner.id) is pipeline.trainer:
            return Draft.before_train(pipeline, file, node, seen)
        # What a call returns, or an attribute holds, is the Trainer whose train() this frame is in.
        if isinstance(owner, ast.Call) or (isinstance(owner, ast.Attribute) and dotted(owner)):
            return Draft.before_train(pipeline, file, node, seen)
    raise NoLine("no line of the script calls train() on this Trainer")


def _in_factory(pipeline: Pipeline) -> Draft:
    target = pipeline.command[0] if pipeline.command else ""
    name, _, factory = target.partition(":")
    module = sys.modules.get(name)
    build = getattr(module, factory, None) if module is not None and factory else None
    code = getattr(inspect.unwrap(build), "__code__", None) if build is not None else None
    if code is None or not is_users(code.co_filename):
        raise NoLine("neither a script's train() nor a factory's code led here")
    file = SourceFile(os.path.realpath(code.co_filename))
    wanted = type(pipeline.trainer).__name__
    found = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and last_name(node.func) == wanted
    ]
    inside = [node for node in found if _within(node, file, code)]
    if len(inside or found) != 1:
        number = f"{len(found)} calls" if found else "no call"
        raise NoLine(f"{file.name} has {number} of {wanted}")
    draft = Draft.where_built(pipeline, file, (inside or found)[0])
    draft.seen = vars_of(module)
    return draft


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of the user's own code, the innermost first."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def _call_at(frame: FrameType) -> tuple[SourceFile, ast.Call] | None:
    """Return the call that a frame is in; None where its file does not show it."""
    places = list(frame.f_code.co_positions())
    at = places[frame.f_lasti // 2] if frame.f_lasti >= 0 else None
    if at is None:
        return None
    try:
        file = SourceFile(os.path.realpath(frame.f_code.co_filename))
    except NoLine:
        return None
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call):
            here = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
            if here == at:
                return file, node
    return None


@functools.cache
def _libraries() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    named = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({os.path.realpath(one) + os.sep for one in [*named, *site.getsitepackages()]})


def is_users(path: str) -> bool:
    """Return whether a file is the user's own: no library, not this program."""
    real = os.path.realpath(path)
    if not os.path.isfile(real) or real.startswith(OWN + os.sep):
        return False
    return not real.startswith(_libraries())


def last_name(node: ast.expr) -> str:
    """Return the last name of what is called: ``Trainer`` of ``transformers.Trainer(...)``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def dotted(node: ast.expr) -> bool:
    """Return whether an expression is names and dots alone."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def vars_of(one: Any) -> dict[str, Any]:
    """Return what an object's own ``__dict__`` has; nothing is asked of the object."""
    try:
        return dict(vars(one))
    except TypeError:
        return {}


def _within(node: ast.AST, file: SourceFile, code: CodeType) -> bool:
    """Return whether a node lies in the function whose code this is."""
    for one in ast.walk(file.tree):
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([one.lineno, *(d.lineno for d in one.decorator_list)])
            if first == code.co_firstlineno and one.name == code.co_name:
                return any(inner is node for inner in ast.walk(one))
    return False


def _statement(file: SourceFile, node: ast.AST) -> ast.stmt:
    """Return the simple statement that a node is in.

    Raises:
        NoLine: it is in the head of a block, or a lambda.
    """
    around = [
        one
        for one in ast.walk(file.tree)
        if isinstance(one, ast.stmt) and any(inner is node for inner in ast.walk(one))
    ]
    innermost = min(around, key=lambda one: sum(1 for _ in ast.walk(one)))
    if hasattr(innermost, "body") or isinstance(innermost, ast.Match):
        raise NoLine(f"line {innermost.lineno} of {file.name} is the head of a block")
    inside = (one for one in ast.walk(innermost) if isinstance(one, ast.Lambda))
    if any(inner is node for one in inside for inner in ast.walk(one)):
        raise NoLine(f"line {innermost.lineno} of {file.name} is a lambda")
    file.indent(innermost)
    return innermost


def _returned(file: SourceFile, built: ast.stmt, name: str) -> ast.stmt | None:
    """Return the statement after which the name is returned, in the same block; None if none."""
    for node in ast.walk(file.tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or built not in body:
            continue
        for later in body[body.index(built) + 1 :]:
            value = getattr(later, "value", None)
            if isinstance(later, ast.Return) and getattr(value, "id", "") == name:
                return later
    return None
