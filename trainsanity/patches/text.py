"""A source file, edits of it by position, and their unified diff."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass


class NoLine(Exception):
    """Raised where no line is known to write a repair to; the text is the reason."""


@dataclass(frozen=True)
class Edit:
    """Characters from ``start`` to ``end`` of a file's text become ``text``."""

    start: int
    end: int
    text: str


class SourceFile:
    """A file of Python code as it is on disk.

    Args:
        path: its full name.

    Raises:
        NoLine: it cannot be read, is no Python in UTF-8, or has line ends of its own kind.
    """

    def __init__(self, path: str) -> None:
        self.path, name = path, os.path.basename(path)
        try:
            with open(path, "rb") as file:
                self.text = file.read().decode("utf-8")
        except OSError as error:
            raise NoLine(f"{name} cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise NoLine(f"{name} is not in UTF-8") from error
        # Python takes a lone carriage return for the end of a line, diffs do not.
        if self.text.count("\r") != self.text.count("\r\n"):
            raise NoLine(f"{name} has carriage returns without a newline")
        self.newline = "\r\n" if "\r\n" in self.text else "\n"
        self._mark = len(self.text) - len(self.text.removeprefix("\ufeff"))
        try:
            self.tree = ast.parse(self.text[self._mark :])
        except (SyntaxError, ValueError) as error:
            raise NoLine(f"{name} is no Python any more") from error
        self._starts = [0]
        for line in self.text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}

    def _offset(self, line: int, column: int) -> int:
        """Return where a place of the tree, in bytes of a line, is in the text."""
        start = self._starts[line - 1] + (self._mark if line == 1 else 0)
        whole = self.text[start : self._starts[line]].encode("utf-8")
        return start + len(whole[:column].decode("utf-8"))

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return where a node's text begins and ends."""
        at: ast.expr = node  # type: ignore[assignment]
        assert at.end_lineno is not None
        assert at.end_col_offset is not None
        return (
            self._offset(at.lineno, at.col_offset),
            self._offset(at.end_lineno, at.end_col_offset),
        )

    def segment(self, node: ast.AST) -> str:
        """Return a node's text."""
        start, end = self.span(node)
        return self.text[start:end]

    def line_start(self, line: int) -> int:
        """Return where a line begins; one after the last begins at the end."""
        return min(self._starts[line - 1], len(self.text))

    def indent(self, statement: ast.stmt) -> str:
        """Return the white space before a statement that begins its line.

        Raises:
            NoLine: something stands before it.
        """
        start = self.line_start(statement.lineno) + (self._mark if statement.lineno == 1 else 0)
        before = self.text[start : self.span(statement)[0]]
        if before.strip():
            raise NoLine(f"line {statement.lineno} of {self.name} holds more than one statement")
        return before

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return os.path.basename(self.path)

    def fresh(self, name: str) -> str:
        """Return the name, or one made of it, that the file does not use; it does from now on."""
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def edited(self, edits: Iterable[Edit], start: int = 0, end: int | None = None) -> str:
        """Return the text between two places with the edits that lie there."""
        parts, at = [], start
        stop = len(self.text) if end is None else end
        for edit in sorted(edits, key=lambda one: (one.start, one.end)):
            if edit.start < at:
                raise NoLine(f"two repairs change one line of {self.name}")
            parts += [self.text[at : edit.start], edit.text]
            at = edit.end
        return "".join([*parts, self.text[at:stop]])

    def diff(self, edits: Iterable[Edit], name: str) -> str:
        """Return the unified diff of the edits.

        Args:
            edits: that do not overlap.
            name: of the file, in the diff.

        Raises:
            NoLine: no diff can name the file.
        """
        if any(not c.isprintable() or c in '"\\' for c in name):
            raise NoLine(f"no diff can name {name!r}")
        # What follows a tab is no part of the name; without one a space would end it.
        end = "\t" if " " in name else ""
        old, new = (_lines(one) for one in (self.text, self.edited(edits)))
        made = difflib.unified_diff(old, new, f"a/{name}{end}", f"b/{name}{end}")
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in made
        )


def _lines(text: str) -> list[str]:
    """Return lines with their ends; unlike ``splitlines`` it knows one kind of end."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    return lines if lines[-1] else lines[:-1]
