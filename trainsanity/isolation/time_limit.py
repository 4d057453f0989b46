"""Stop a check or measurement that takes too long.

It is interrupted as by Ctrl-C: an exception is raised in the main thread as soon as the interpreter
runs again.  C code that does not return to the interpreter, such as a collective operation whose
partner is gone or a deadlock, cannot be interrupted; then the process ends, with the exit code of
an incomplete report.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from trainsanity.errors import ExitCode, UsageError
from trainsanity.isolation.temp_folders import clear

GRACE = 30.0
"""Seconds that restoring the state may take after the timeout: 8 GB of weights take a few."""

SOON = 0.01
"""Seconds until the next timeout if the exception was swallowed where it cannot be seen."""

AGAIN = 5.0
"""Seconds between timeouts: user code may have swallowed the first."""

PATIENCE = 10.0
"""Seconds that a context manager's own code may take after the timeout; less than :data:`GRACE`, so
that code of the user's that hangs inside of one is interrupted, too."""

OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
"""Where the files of this package lie."""

stderr = 2
"""The file descriptor of the last message; under pytest ``sys.stderr`` has another one."""

_deferring: list[bool] = []
"""Not empty while timeouts are deferred; the first says whether one came meanwhile."""


class TimedOut(Exception):
    """A check or measurement took too long; the text says which, and how long it had."""


class _Stop(BaseException):
    """Raised at the timeout; ``except Exception`` in the user's code does not catch it."""


def checked(seconds: float | None, option: str) -> float | None:
    """Return the limit that an option gives.

    Raises:
        UsageError: it is no positive number of seconds.
    """
    if seconds is not None and not 0 < seconds < threading.TIMEOUT_MAX:
        raise UsageError(f"{option} is {seconds:g}: give a number of seconds above 0")
    return seconds


@contextlib.contextmanager
def limited(seconds: float | None, who: str) -> Iterator[None]:
    """Stop the block after so many seconds; None sets no limit.

    Raises:
        TimedOut: the block was stopped, or had taken longer when it ended.
        UsageError: there is no timer: not on POSIX, or not in the main thread.
    """
    if seconds is None:
        yield
        return
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer"):
        raise UsageError(
            "a time limit needs a POSIX system and the main thread: leave out the timeout"
        )
    late = TimedOut(f"{who} took longer than the {seconds:g} s that it was given and was stopped")

    # The frame of the block itself: below this generator is contextlib, below that the block's.
    block = id(sys._getframe(2))

    over: list[None] = []

    def stop(_number: int, frame: FrameType | None) -> None:
        if over:  # it rang while the limit was lifted: set again, it would find no handler
            return
        if _deferring:
            _deferring[0] = True
        elif _in_context_manager(frame, block) and time.monotonic() < patient:
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
        else:
            raise _Stop

    last_resort = threading.Timer(seconds + GRACE, _give_up, (who, seconds))
    last_resort.daemon = True
    last_resort.start()
    start = time.monotonic()
    patient = start + seconds + PATIENCE
    handler = signal.signal(signal.SIGALRM, stop)
    others, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            with _rearmed_if_swallowed():
                yield
        finally:
            over.append(None)
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.monotonic() - start > seconds:
            raise late
    except _Stop as stopped:
        # The note that fingerprint.guarded adds if something was left changed.
        notes = getattr(stopped, "__notes__", ())
        raise TimedOut("; ".join([str(late), *notes])) from None
    except Exception as error:
        if error is not late and time.monotonic() - start > seconds:
            raise late from error
        raise
    finally:
        last_resort.cancel()
        signal.signal(signal.SIGALRM, handler)
        if others:  # a timer that somebody else set, such as pytest-timeout
            left = max(others - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextlib.contextmanager
def _rearmed_if_swallowed() -> Iterator[None]:
    """Re-arm the timer if the timeout exception was swallowed in __del__ or the garbage collector.

    An exception raised there goes to ``sys.unraisablehook``, which prints it, and no further.
    """
    others = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is _Stop:
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
        else:
            others(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = others


def _in_context_manager(frame: FrameType | None, block: int) -> bool:
    """Return whether one of this package's context managers is being entered or left.

    What it sets up would stay, if it were stopped before it comes to its own ``finally``, or in the
    first lines of that.

    Args:
        frame: where the timeout came.
        block: the ``id`` of the frame that is limited; those outside of it are not asked.
    """
    inner = ""
    while frame is not None and id(frame) != block:
        file = frame.f_code.co_filename
        if frame.f_code.co_name in ("__enter__", "__exit__"):
            whose = inner or OURS if file == contextlib.__file__ else file
            if whose.startswith(OURS):
                return True
        if file != contextlib.__file__:
            inner = file
        frame = frame.f_back
    return False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer the timeout while state is restored; one that came meanwhile comes soon after."""
    _deferring.append(False)
    try:
        yield
    finally:
        came = _deferring.pop()
        if came and not _deferring:
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)


def _give_up(who: str, seconds: float) -> None:
    """End the process: the block has not stopped."""
    message = (
        f"\ntrainsanity: error: {who} was told to stop after {seconds:g} s and has not for "
        f"{GRACE:g} s: it is in code that cannot be interrupted, so this process ends without a "
        "report\n"
    )
    os.write(stderr, message.encode())
    faulthandler.dump_traceback(stderr)
    clear()
    os._exit(ExitCode.INCOMPLETE)
