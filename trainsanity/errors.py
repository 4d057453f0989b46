"""Errors that are somebody's to mend."""

from __future__ import annotations


class UsageError(Exception):
    """The call or the input was wrong.

    The text is one sentence that says what was wrong and what to give instead; the command line
    prints it without a traceback and exits with 2.
    """


class CheckFailure(AssertionError):
    """A check failed under pytest; the text is the finding."""
