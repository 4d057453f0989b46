"""Run a training script as ``python train.py`` does, up to its call of ``Trainer.train()``.

The checks run inside that call, while the script's temporary folders, ``with`` blocks and data
still exist; then the script is unwound.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, Generic, TypeVar, cast

from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.library_warnings import LibraryWarning, Listener, listening, loads
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import declare, from_trainer
from trainsanity.sources.later_trainings import later_trainings
from trainsanity.sources.loop_capture import LoopCapture
from trainsanity.sources.patching import MODULE, TRAINER, NewFolders, patched

T = TypeVar("T")

ENDS = ("__init__", "train", "evaluate", "predict")
"""Methods of a Trainer that end the script again if it goes on after the verdict."""

SAVES = {
    TRAINER: ("save_model", "save_state", "push_to_hub"),
    ("transformers.modeling_utils", "PreTrainedModel"): ("save_pretrained", "push_to_hub"),
    ("peft.peft_model", "PeftModel"): ("save_pretrained", "push_to_hub"),
}
"""Methods that do nothing after the verdict: ``finally: trainer.save_model()`` would write or
publish an untrained model."""


ENDED = "trainsanity has judged this Trainer; the script ends here"


class Judged(BaseException):
    """Ends the script after the verdict; ``except Exception`` does not catch it."""


@dataclass(frozen=True)
class Script:
    """A script as a source of a pipeline, beside ``PipelineSpec``.

    Attributes:
        path: as the user gave it.
        arguments: what follows ``--`` on the command line.
        expected_failures: check name to the reason why its failure is accepted here.
        declared: settings such as ``supervise``, as in ``PipelineSpec``.
        name: its name in reports, where that is not its path.
    """

    path: str
    arguments: tuple[str, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    declared: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default="", kw_only=True)

    @property
    def id(self) -> str:
        """The name in reports."""
        return self.name or self.path

    def visit(self, judge: Callable[[Pipeline], T]) -> T:
        """Return what ``judge`` returns for the pipeline; see :func:`judge_script`."""

        def declared(pipeline: Pipeline) -> T:
            declare(pipeline, self.declared)
            return judge(pipeline)

        return judge_script(self.path, self.arguments, declared)


def judge_script(path: str, arguments: Sequence[str], judge: Callable[[Pipeline], T]) -> T:
    """Run a script, call ``judge`` in place of the first ``Trainer.train()``, and end the script.

    Afterwards ``sys.argv``, ``sys.path``, ``__main__``, the warning filters, the working directory
    and the patched classes are what they were, and output folders that Trainers made and left
    empty are gone.

    Raises:
        UsageError: the script cannot be read or run, or ended without a call of ``train()``.
    """
    code = compiled(path)
    visit = Visit(path, arguments, judge)
    folders = NewFolders()
    try:
        with as_main(path, arguments) as module, folders.noted(), visit.watching():
            _execute(code, module, visit)
    finally:
        folders.remove_empty()
    return visit.result()


def compiled(path: str) -> CodeType:
    """Return a script's code.

    Raises:
        UsageError: it cannot be read, or is no Python.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return compile(source, os.path.abspath(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise UsageError(f"{path} is no Python: {where}{error.msg}") from error
    except ValueError as error:  # null bytes, before Python 3.12
        raise UsageError(f"{path} is no Python: {error}") from error


def run_code(code: CodeType, module: ModuleType) -> None:
    """Execute the user's own script, which is what was asked for."""
    exec(code, module.__dict__)


def _execute(code: CodeType, module: ModuleType, visit: Visit[Any]) -> None:
    try:
        run_code(code, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # After the verdict, errors of the script are irrelevant.
        if not visit.over:
            if visit.loop.found and isinstance(error, SystemExit) and not error.code:
                return
            raise UsageError(why_ended(visit.path, error, code.co_filename)) from error


def untrained(path: str) -> str:
    """Return in one sentence that a script came to its end and did not train."""
    return (
        f"{path} ended without calling train() on a transformers.Trainer, and took no optimizer "
        "step of its own: give it the arguments with which it trains, as in "
        f"trainsanity run {path} -- ARGS"
    )


def why_ended(path: str, error: BaseException, file: str) -> str:
    """Return in one sentence how a script ended before it called train().

    Args:
        path: as the user gave it.
        error: what it raised.
        file: the name of its code, to find the line by.
    """
    before = "before it called Trainer.train()"
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        if isinstance(code, int):
            return (
                f"{path} exited with code {code} {before}; "
                f"its own arguments go after --: trainsanity run {path} -- ARGS"
            )
        return f"{path} exited {before}: {code}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" in line {lines[-1]}" if lines else ""
    return f"{path} raised {type(error).__name__}{where} {before}: {first_line(error)}"


@contextlib.contextmanager
def as_main(path: str, arguments: Sequence[str]) -> Iterator[ModuleType]:
    """Yield an empty ``__main__`` with the surroundings that ``python path arguments...`` has."""
    file = os.path.abspath(path)
    folder = Path(file).resolve().parent
    module = ModuleType("__main__")
    loader = SourceFileLoader("__main__", file)
    vars(module).update(__file__=file, __cached__=None, __loader__=loader, __annotations__={})
    search = [str(folder)]
    root, package = _package(folder)
    if package:
        # Unlike ``python path``, allow relative imports in a script inside a package.
        name = f"{package}.{Path(file).stem}"
        module.__spec__ = ModuleSpec(name, SourceFileLoader(name, file), origin=file)
        module.__package__ = package
        search.append(str(root))
    argv, main, trace, here = sys.argv, sys.modules["__main__"], sys.gettrace(), os.getcwd()
    entries, listed = sys.path, list(sys.path)
    sys.argv = [path, *arguments]
    sys.path[:0] = search
    sys.modules["__main__"] = module
    try:
        with warnings.catch_warnings():
            yield module
    finally:
        sys.settrace(trace)
        sys.argv, sys.path, sys.modules["__main__"] = argv, entries, main
        sys.path[:] = listed
        os.chdir(here)


def _package(folder: Path) -> tuple[Path, str]:
    """Return the folder above the outermost package, and the dotted name of the innermost."""
    names: list[str] = []
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(names)


class Visit(Generic[T]):
    """Waits for ``train()``, judges there, and keeps the script from going on after that."""

    def __init__(self, path: str, arguments: Sequence[str], judge: Callable[[Pipeline], T]) -> None:
        self.path, self.arguments, self.judge = path, tuple(arguments), judge
        self.judging = self.over = False
        self.thread = 0
        self._ends = 0
        self.value: T | None = None
        self._built: list[weakref.ref[Any]] = []
        self._heard: list[LibraryWarning] = []
        self._listener: Listener | None = None
        self.error: BaseException | None = None
        self.loop = LoopCapture(
            lambda: self.judging or self.over, self._judge_here, self._step_elsewhere
        )

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Patch the methods of Trainer, and those that save."""
        with contextlib.ExitStack() as stack:
            self._listener = stack.enter_context(listening(self._heard))
            stack.enter_context(patched(MODULE, loads(self._listener)))
            for home, methods in SAVES.items():
                stack.enter_context(patched(home, dict.fromkeys(methods, self._silent)))
            stack.enter_context(patched(TRAINER, dict.fromkeys(ENDS, self._ending)))
            stack.enter_context(patched(TRAINER, {"__init__": self._building}))
            stack.enter_context(patched(TRAINER, {"train": self._judging}))
            stack.enter_context(self.loop.watching())
            yield

    def result(self) -> T:
        """Return what ``judge`` returned, or raise what it raised, out of the script's reach."""
        if not self.over:
            self.loop.judge_what_is_there()
        if self.error is not None:
            raise self.error
        if not self.over:
            raise UsageError(untrained(self.path))
        return cast("T", self.value)

    def begin(self) -> None:
        """Prepare for being judged; see :mod:`trainsanity.cli.child`."""

    def another_thread(self) -> None:
        """Keep ``train()`` in another thread from training while this one is judged."""

    def _step_elsewhere(self) -> None:
        if threading.get_ident() != self.thread:
            self.another_thread()

    def _judging(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            # The checks call train() themselves, and a subclass may hold this function.
            if self.judging or self.over:
                if threading.get_ident() != self.thread:
                    self.another_thread()
                return original(trainer, *args, **kwargs)
            resumes = kwargs.get("resume_from_checkpoint", args[0] if args else None)
            raise self._judge_here(lambda: self._from_trainer(trainer, bool(resumes)))

        return train

    def _judge_here(self, pipeline: Callable[[], Pipeline]) -> BaseException:
        """Judge what ``pipeline`` returns; return what the caller has to raise into the script."""
        self.judging, self.thread = True, threading.get_ident()
        try:
            self.begin()
            self.value = self.judge(self._declared(pipeline()))
        except BaseException as error:
            # The script must not catch it.
            self.error = error
        self.judging, self.over = False, True
        return self._end()

    def _from_trainer(self, trainer: Any, resumes: bool) -> Pipeline:
        built = {id(other): other for one in self._built if (other := one()) is not None}
        # A Trainer that this one holds is a part of it.
        for part in (trainer, *vars(trainer).values()):
            built.pop(id(part), None)
        lines = _lines_in(self.path, sys._getframe(1))
        notes = later_trainings(os.path.abspath(self.path), lines, len(built))
        if resumes:
            notes.append("the script resumes from a checkpoint; judged are the weights before that")
        return from_trainer(trainer, notes)

    def _declared(self, pipeline: Pipeline) -> Pipeline:
        pipeline.id, pipeline.command = self.path, (self.path, *self.arguments)
        pipeline.source = _line_in(self.path, sys._getframe(1))
        pipeline.library_warnings = self._heard
        if self._listener is not None:
            # What measurements provoke is not the script's.
            self._listener.paused = True
        return pipeline

    def _building(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
            if not self.judging:
                self._built.append(weakref.ref(trainer))
            original(trainer, *args, **kwargs)

        return init

    def _ending(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            if self.over:
                raise self._end()
            return original(*args, **kwargs)

        return method

    def _silent(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            return None if self.over else original(*args, **kwargs)

        return method

    def _end(self) -> Judged:
        """Return the exception that unwinds the script, for the method that it called to raise."""
        self._ends += 1
        # The script caught the exception twice: perhaps a loop that retries for ever.
        if self._ends > 2:
            _raise_at_next_line(sys._getframe(2))
        return Judged(ENDED)


def _line_in(path: str, frame: FrameType | None) -> tuple[str, int] | None:
    """Return the script's file, and its line that is being executed; None after its end."""
    lines = _lines_in(path, frame)
    return (os.path.abspath(path), lines[0]) if lines else None


def _lines_in(path: str, frame: FrameType | None) -> list[int]:
    """Return the script's lines that are being executed, the innermost function's first."""
    file, lines = os.path.abspath(path), []
    while frame is not None:
        if frame.f_code.co_filename == file:
            lines.append(frame.f_lineno)
        frame = frame.f_back
    return lines


def _raise_at_next_line(frame: FrameType | None) -> None:
    """Raise in the callers' next lines, outside of the ``try`` that catches the exception."""

    def leave(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            raise Judged(ENDED)
        return leave

    while frame is not None and frame.f_code is not _execute.__code__:
        frame.f_trace = leave
        frame = frame.f_back
    # Python traces frames only while a global trace function is set; this one ignores new frames.
    sys.settrace(lambda frame, event, arg: None)
