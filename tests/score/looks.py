"""What a tool says of one pipeline, and how several of its checks are asked one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Look:
    """A tool's answers.

    Attributes:
        red: by check, what it objects to.
        warned: the same for what the tool itself calls a warning.
        unable: by check, why it could not look.  A crash of the check is one of these reasons:
            it is no detection.
        more: what only one tool tells of itself.
    """

    red: dict[str, str] = field(default_factory=dict)
    warned: dict[str, str] = field(default_factory=dict)
    unable: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def ask(self, name: str, package: str, check: Callable[[], object]) -> None:
        """Call a check that objects with an AssertionError, as those of test tools do.

        One that was raised elsewhere than in the package is a crash like any other.
        """
        try:
            check()
        except Exception as error:
            *_, last = traceback.extract_tb(error.__traceback__)
            objects = isinstance(error, AssertionError) and package in Path(last.filename).parts
            if objects:
                self.red[name] = line(error)
            else:
                self.unable[name] = f"{type(error).__name__}: {line(error)}"


def line(said: object) -> str:
    """The first 200 characters in one line."""
    return " ".join(str(said).split())[:200]
