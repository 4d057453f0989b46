"""What stops a look that would never end, and what a look that ran out of memory gives back.

A look that takes too long is interrupted as Ctrl-C would: by an exception in the main thread, the
next time that the interpreter gets to run.  Code in C that does not come back to it, a collective
operation whose partner is gone or a lock that nobody opens, cannot be interrupted; the process ends
then, with the exit code of an incomplete report.
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

from trainsanity.errors import ExitCode, UsageError
from trainsanity.isolation.temp_folders import clear

GRACE = 30.0
"""Seconds that a look which has been told to stop may take to put everything back: weights of
8 GB take a few."""

SOON = 0.01
"""Likewise where nobody could hear it: see :func:`_heard`."""

AGAIN = 5.0
"""Seconds after which a look is told once more: somebody may have swallowed it."""

stderr = 2
"""The descriptor that is told then; pytest puts another file in the place of the usual one."""

_holding: list[None] = []
"""As long as there is something in it, nothing is stopped."""


class TimedOut(Exception):
    """A look took too long; the text says which, and how long it had."""


class _Stop(BaseException):
    """Raised inside the look; no ``except Exception`` of the user's code holds it back."""


def checked(seconds: float | None, option: str) -> float | None:
    """The limit that an option gives.

    Raises:
        UsageError: it is none.
    """
    if seconds is not None and not 0 < seconds < threading.TIMEOUT_MAX:
        raise UsageError(f"{option} is {seconds:g}: give a number of seconds above 0")
    return seconds


@contextlib.contextmanager
def limited(seconds: float | None, who: str) -> Iterator[None]:
    """Stop the block after so many seconds; None lets it run.

    Raises:
        TimedOut: it was stopped, or had taken longer when it ended.
        UsageError: there is no timer here: not on POSIX, or not in the main thread.
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

    def stop(_number: int, _frame: object) -> None:
        if not _holding:
            raise _Stop

    last_resort = threading.Timer(seconds + GRACE, _give_up, (who, seconds))
    last_resort.daemon = True
    last_resort.start()
    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    others, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            with _heard():
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.monotonic() - start > seconds:
            raise late
    except _Stop as stopped:
        # What it left changed, if anything: see state.guarded.
        notes = getattr(stopped, "__notes__", ())
        raise TimedOut("; ".join([str(late), *notes])) from None
    except Exception as error:
        if error is not late and time.monotonic() - start > seconds:
            raise late from error
        raise
    finally:
        last_resort.cancel()
        signal.signal(signal.SIGALRM, handler)
        if others:  # a timer of pytest's, for example, goes on
            left = max(others - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Tell a look again, and nobody else, that was told inside ``__del__`` or the collector.

    What is raised there goes to ``sys.unraisablehook``, which prints it, and no further.
    """
    others = sys.unraisablehook

    def unheard(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_type is _Stop:
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
        else:
            others(unraisable)

    sys.unraisablehook = unheard
    try:
        yield
    finally:
        sys.unraisablehook = others


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Nothing is stopped in this block, where a state is put back; it is told again afterwards."""
    _holding.append(None)
    try:
        yield
    finally:
        _holding.pop()


def _give_up(who: str, seconds: float) -> None:
    told = (
        f"\ntrainsanity: error: {who} was told to stop after {seconds:g} s and has not for "
        f"{GRACE:g} s: it is in code that cannot be interrupted, so this process ends without a "
        "report\n"
    )
    os.write(stderr, told.encode())
    faulthandler.dump_traceback(stderr)
    clear()
    os._exit(ExitCode.INCOMPLETE)
