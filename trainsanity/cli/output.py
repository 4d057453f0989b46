"""Write reports: text to a stream, the others to files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.status import Status
from rich.text import Text

from trainsanity.errors import UsageError
from trainsanity.report.words import clean

PIPED_WIDTH, WIDEST = 100, 120
"""Columns of a report that goes to a file, and the most on a terminal: long lines tire the eye."""


def style(stream: TextIO) -> tuple[int, bool]:
    """Return the width of what is written to a stream, and whether it takes colour."""
    console = Console(file=stream)
    width = min(console.width, WIDEST) if console.is_terminal else PIPED_WIDTH
    return width, console.color_system is not None and not console.no_color


def write_text(stream: TextIO, render: Callable[[int, bool], str]) -> None:
    """Write what ``render`` makes of the stream's width and whether it takes colour."""
    write(stream, render(*style(stream)))


PLAIN: dict[str, str | int | None] = {"✓": "ok", "✗": "failed", "…": "...", "·": "-"}
"""What the reports' own signs become on a stream that cannot take them."""


def write(stream: TextIO, text: str) -> None:
    """Write text to a stream of any encoding; what that lacks is written out.

    A lone surrogate, which no encoding takes, may come from the name of a file or from data.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        "".join(PLAIN).encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(str.maketrans(PLAIN))
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


SILENCE = 10.0
"""Seconds without a word after which a log is told what is measured: CI systems take a job for dead
after minutes, people after less; a run of most pipelines ends before the first such line."""

OFTEN = 1.0
"""The same where ``--progress`` asks for more: a line a second can be read."""


@contextlib.contextmanager
def progress(shown: bool | None = None) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows what is being measured.

    On a terminal that is one line, again and again; elsewhere a line now and then.

    Args:
        shown: whether to; None for only now and then where there is no terminal.
    """
    console = Console(stderr=True)
    if shown is False or not console.is_terminal:
        yield _Seldom(None if shown is False else sys.stderr, OFTEN if shown else SILENCE)
        return
    status = console.status("")
    try:
        yield Line(status)
    finally:
        status.stop()


class Line:
    """One line of a terminal, from the first call on, after what a script itself has written."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._started = False

    def __call__(self, what: str) -> None:
        """Show what is done now."""
        self._status.update(Text(what, no_wrap=True, overflow="ellipsis"))
        if not self._started:
            self._started = True
            self._status.start()


class _Seldom:
    """Writes a line to a log if the last one is long enough ago."""

    def __init__(self, stream: TextIO | None, silence: float = SILENCE) -> None:
        self._stream, self._silence = stream, silence
        self._what = ""
        self._start = time.monotonic()
        self._last = self._start if silence == SILENCE else 0.0

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        silence = SILENCE if what == self._what else self._silence
        if self._stream is None or now - self._last < silence:
            return
        self._last, self._what = now, what
        with contextlib.suppress(OSError, ValueError):  # full, or closed by the user's code
            write(self._stream, f"trainsanity: {now - self._start:.0f} s: {clean(what)}\n")


@contextlib.contextmanager
def stdout_is_stderr() -> Iterator[None]:
    """Send what the user's code prints to stderr; stdout is for the report.

    The descriptor is moved as well as ``sys.stdout``, for C libraries, child processes, and
    loggers that hold on to the old object.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # one of the two is closed
            saved = os.dup(1)
            stack.callback(os.close, saved)
            _flush_stdout()
            os.dup2(2, 1)
            stack.callback(os.dup2, saved, 1)
            stack.callback(_flush_stdout)
        stack.enter_context(contextlib.redirect_stdout(_Lent(sys.stderr)))
        yield


class _Lent:
    """A stream that the user's code may write to, and close without closing it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def close(self) -> None:
        """Leave that to the stream's owner."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _flush_stdout() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            stream.flush()


class Output:
    """Where the text goes, and the JSON: with ``--json -`` stdout is for that.

    Raises:
        UsageError: the JSON file cannot be written.
    """

    def __init__(self, json_file: str | None) -> None:
        if json_file == "-" and sys.stdout is None:
            raise UsageError("--json -: stdout is closed, give the name of a file")
        # Python has no stream for a descriptor that the caller closed; the exit code remains.
        self.text = (sys.stderr if json_file == "-" else sys.stdout) or io.StringIO()
        self._file = None if json_file in (None, "-") else OutputFile("--json", str(json_file))

    def json(self, text: str) -> None:
        """Write the JSON report."""
        if self._file is None:
            write(sys.stdout, text)
        else:
            self._file.write(text)


WRITTEN_BY_HAND = (".py", ".ipynb", ".sh", ".toml", ".yaml", ".yml", ".cfg", ".ini")
"""Ends of the names of files that no report replaces."""


def refuse_one_file_for_two(named: Mapping[str, str | None]) -> None:
    """Refuse what would keep the last of two reports alone.

    Args:
        named: option to the name of its file.

    Raises:
        UsageError: two of them name one file.
    """
    taken: dict[str, str] = {}
    for option, name in named.items():
        if not name or (name == "-" and option == "--json"):
            continue
        place = os.path.realpath(name) if "\0" not in name else name
        if os.path.exists(place) and not os.path.isfile(place):
            continue  # a pipe or a device takes both
        if place in taken:
            raise UsageError(f"{option} {name}: {taken[place]} writes there, give another file")
        taken[place] = option


class OutputFile:
    """A file that an option names.  It appears whole at the end, or not at all.

    Args:
        option: the option, for errors.
        name: the file's name.
        append: append to what is there already, as for GitHub's step summary.

    Raises:
        UsageError: the file cannot be written.  This is found out at once, because the
            measurements before the end may take minutes.
    """

    def __init__(self, option: str, name: str, *, append: bool = False) -> None:
        self._called = f"{option} {name}".rstrip()
        if not name or name == "-":
            raise UsageError(f"{self._called}: give the name of a file")
        self._append = append
        with self._usage_errors():
            # The pipeline's code may change the directory before the end.
            self._path = Path(name).resolve()
            if self._path.is_dir():
                raise UsageError(f"{self._called}: that is a directory, give a file")
            if self._path.suffix in WRITTEN_BY_HAND and self._path.exists():
                raise UsageError(
                    f"{self._called}: that is code or configuration, give another file"
                )
            if self._direct:
                return
            if append and self._path.exists():
                self._path.open("a", encoding="utf-8").close()
                return
            self._beside.touch(exist_ok=False)
            self._beside.unlink()

    @property
    def _direct(self) -> bool:
        """Whether it is a pipe or a device, which a file put in its place would remove."""
        return self._path.exists() and not self._path.is_file()

    @property
    def _beside(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")

    @contextlib.contextmanager
    def _usage_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a null byte is no OSError
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{self._called}: it cannot be written ({reason})") from error

    def write(self, text: str) -> None:
        """Write the file."""
        with self._usage_errors():
            if self._append or self._direct:
                with self._path.open("a" if self._append else "w", encoding="utf-8") as file:
                    file.write(text)
                return
            try:
                self._beside.write_text(text, encoding="utf-8")
                if self._path.exists():
                    shutil.copymode(self._path, self._beside)
                os.replace(self._beside, self._path)
            finally:
                self._beside.unlink(missing_ok=True)
