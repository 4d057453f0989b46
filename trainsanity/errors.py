"""Exceptions reported to the user, and the exit codes of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """How a process of trainsanity ends.

    ``INCOMPLETE`` is also the code of a run that broke off: a measurement that cannot be stopped, a
    process that failed where the others cannot follow.
    """

    OK = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3
    INTERRUPTED = 130
    TERMINATED = 143

    @classmethod
    def worst(cls, codes: Iterable[ExitCode]) -> ExitCode:
        """Return one code for several pipelines.

        A failure outranks what is incomplete, and one that could not be judged at all outranks
        both: whoever reads the code alone has to mend the call first.
        """
        return max(codes, key=(cls.OK, cls.INCOMPLETE, cls.FAILED, cls.USAGE).index)


EXIT_CODES = {
    ExitCode.OK: "every check that ran passed, warned, or failed as accepted",
    ExitCode.FAILED: "a check failed, an accepted failure passed, or there was a warning that "
    "--strict or --warnings-as-errors counts as a failure",
    ExitCode.USAGE: "the call or its input was wrong",
    ExitCode.INCOMPLETE: "incomplete: an error, nothing ran, neither loss nor gradient was "
    "compared with a computed value, or, with --strict, anything skipped, blocked or abstained",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "terminated",
}
"""Meanings of the exit codes of ``trainsanity run``, for ``--help``."""


class UsageError(Exception):
    """The call or the input was wrong.

    The text is one sentence that says what was wrong and what to give instead; the command line
    prints it without a traceback and exits with 2.
    """


class RankError(Exception):
    """One of several processes failed where the others cannot follow; the run ends at once."""


class BrokenOff(Exception):
    """A script's process ended while it was judged, before there was a report."""


LINE = 300
"""Characters of somebody else's error that fit into a sentence."""


def text_of(error: BaseException) -> str:
    """The error's own text; also of one that raises when it is asked for it."""
    try:
        return str(error)
    except Exception as another:
        return f"(no text: {type(another).__name__} in its __str__)"


def first_line(error: BaseException) -> str:
    """Return as much of an error's text as fits into a sentence."""
    line = text_of(error).strip().partition("\n")[0]
    return (line if len(line) <= LINE else f"{line[:LINE]}...") or "(no message)"


class CheckFailure(AssertionError):
    """A check failed under pytest or SanityCallback(action="raise"); the text is the finding."""


class CheckWarning(UserWarning):
    """A check warned under pytest; the text is the finding.

    ``pytest -W error::trainsanity.CheckWarning`` turns warnings into failures.
    """
