"""Start a script or a command in processes of its own, wait for the verdict, and end them all.

This process imports no torch.  It owns the temporary folder, the terminal and the exit code,
whatever becomes of the processes that it starts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.errors import BrokenOff, UsageError
from trainsanity.isolation.temp_folders import scratch
from trainsanity.sources.handover import Handover
from trainsanity.sources.patching import remove_empty
from trainsanity.sources.travelling import arm, prctl

if TYPE_CHECKING:
    import psutil

OFTEN = 0.05
"""Seconds between two looks for the verdict."""

LEFT_BEHIND = 60.0
"""Seconds in which processes and threads that a script leaves behind have to reach ``train()``:
importing torch and transformers takes 10 on a slow machine, loading a model as long again."""

STUCK = 20.0
"""Seconds after which a process that SIGKILL does not end is left: it waits for a device."""

PR_SET_CHILD_SUBREAPER = 36
"""Of Linux' ``prctl``: orphans below this process become its own children, and can be found."""


@dataclass(frozen=True)
class Launch:
    """What is started.

    Attributes:
        name: its name in sentences, as the user wrote it.
        words: the command.
        hooks: the folder with ``sitecustomize.py``.
    """

    name: str
    words: Sequence[str]
    hooks: Path

    def run(
        self, call: Mapping[str, Any], show: Callable[[str], None], wait: Callable[[], None]
    ) -> dict[str, Any]:
        """Start it, and return the verdict that one of its processes comes to.

        Args:
            call: how to judge, for the process that does.
            show: called with what is being measured.
            wait: called again and again before anything is.

        Raises:
            UsageError: there was no verdict, because nothing was trained.
            BrokenOff: judging began and broke off.
        """
        with _terminated_as_interrupted(), scratch() as folder, _orphans_found():
            handover = Handover(folder)
            handover.call(call)
            before = {process.pid for process in _below()}
            process = self._start(handover)
            try:
                _wait(process, handover, before, show, wait)
            finally:
                _end_all(process, before)
                remove_empty(handover.new_folders)
            outcome = handover.outcome
            if outcome is None:
                self._explain(process.returncode, handover)
            return outcome or {}

    def _start(self, handover: Handover) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "TMPDIR": str(handover.temporary)}
        arm(environ, str(handover.folder), str(self.hooks))
        try:
            # What it prints is not the report, and goes to stderr, if there is one.
            out = os.dup(2)
        except OSError:
            out = os.open(os.devnull, os.O_WRONLY)
        try:
            return subprocess.Popen(self.words, env=environ, stdout=out)
        except OSError as error:
            raise UsageError(f"{self.words[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(out)

    def _explain(self, code: int, handover: Handover) -> None:
        """Raise what explains that there is no verdict."""
        how = f"exited with code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                code, how = -code, f"was ended by {signal.Signals(-code).name}"
        if handover.claimed is not None:
            raise BrokenOff(f"{self.name} {how} while it was judged, and there is no report")
        if handover.ending is not None:
            raise UsageError(handover.ending)
        raise UsageError(
            f"{self.name} {how} before it called train() on a transformers.Trainer: give it what "
            "it trains with"
        )


def _wait(
    process: subprocess.Popen[bytes],
    handover: Handover,
    before: set[int],
    show: Callable[[str], None],
    idle: Callable[[], None],
) -> None:
    """Wait for a verdict, or until nothing is left that could come to one."""
    shown, late = "", float("inf")
    while handover.outcome is None and time.monotonic() < late:
        if (doing := handover.doing) != shown:
            shown = doing
            show(shown)
        elif not doing:
            idle()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(OFTEN)
            if not [one for one in _below() if one.pid not in before and _alive(one)]:
                return
            time.sleep(OFTEN)
        main_is_over = process.returncode is not None or handover.ending is not None
        if handover.claimed is None and main_is_over:
            late = min(late, time.monotonic() + LEFT_BEHIND)
        elif handover.claimed is not None:
            late = float("inf")


def _below() -> list[psutil.Process]:
    """Return the processes below this one, parents before their children."""
    import psutil

    with contextlib.suppress(psutil.Error):
        found: list[psutil.Process] = psutil.Process().children(recursive=True)
        return found
    return []


def _alive(process: psutil.Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _end_all(process: subprocess.Popen[bytes], before: set[int]) -> None:
    """End what was started: parents first, so that none learns of a child's end and goes on."""
    until = time.monotonic() + STUCK
    while time.monotonic() < until:
        left = [one for one in _below() if one.pid not in before and _alive(one)]
        if not left:
            break
        for one in left:
            with contextlib.suppress(Exception):  # it has ended meanwhile
                one.kill()
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    for pid in {one.pid for one in _below()} - before:  # orphans that are ours to collect
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Unwind at SIGTERM, too, where nobody has seen to that: a rank that torchrun ends."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _orphans_found() -> Iterator[None]:
    """Have processes whose parents end become children of this one, where Linux can do that."""
    control = prctl()
    if control is None:
        yield
        return
    control(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        control(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
