"""A command line as a source of a pipeline: ``trainsanity run -- trl sft --config x.yaml``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from trainsanity.errors import UsageError
from trainsanity.pipeline import Pipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Command:
    """A command that trains, in one process or several.

    Attributes:
        words: the command and its arguments.
        expected_failures: check name to the reason why its failure is accepted here.
        declared: settings such as ``supervise``, as in ``PipelineSpec``.
    """

    words: tuple[str, ...]
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name in reports."""
        return shlex.join(self.words)

    def visit(self, judge: Callable[[Pipeline], T]) -> T:
        """Refuse: a command runs in a process of its own.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.id} is a command, which only `trainsanity run -- {self.id}` can judge"
        )


def names_a_command(words: Sequence[str]) -> bool:
    """Return whether words that follow ``--`` are a command, and no arguments of a pipeline's."""
    if not words or words[0].startswith("-"):
        return False
    return Path(words[0]).suffix != ".py" and shutil.which(words[0]) is not None
