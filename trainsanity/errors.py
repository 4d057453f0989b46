"""Errors that are somebody's to mend."""

from __future__ import annotations


class UsageError(Exception):
    """The call or the input was wrong.

    The text is one sentence that says what was wrong and what to give instead; the command line
    prints it without a traceback and exits with 2.
    """


class RankError(Exception):
    """One of several processes failed where the others cannot follow; the run ends at once."""


def first_line(error: BaseException) -> str:
    """As much of an error's text as fits into a sentence."""
    return str(error).strip().partition("\n")[0] or "(no message)"


class CheckFailure(AssertionError):
    """A check failed under pytest; the text is the finding."""
