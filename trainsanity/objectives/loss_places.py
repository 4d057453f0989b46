"""Which lines call torch's loss functions, and what did not fit there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from trainsanity.isolation.overrides import LIBRARIES
from trainsanity.objectives.loss_arguments import Misfit

OWN = __name__.partition(".")[0]

AT_MOST = 8
"""Calls that are looked at from one place: the micro-batches of a step, and no more."""


TARGETS = 4096
"""Targets of a call that are kept, to be held against what the model was given."""


@dataclass
class LossCall:
    """The first calls of one loss function from one line.

    Attributes:
        function: its name in ``torch.nn.functional``.
        where: the line outside of torch that called it, ``file:line``.
        count: calls that were looked at.
        misfits: what did not fit in any of them, each once.
        weights: of the classes, or of the positives of each label, where it was given such; else
            empty.
        targets: of its first call, where they are classes; at most :data:`TARGETS`.
        items: how many there were.
        scores: of its first call, ``[B, B]``, where there are as many classes as rows.
    """

    function: str
    where: str
    count: int
    misfits: list[Misfit]
    weights: list[float] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    items: int = 0
    scores: list[list[float]] = field(default_factory=list)


def place(frame: Any) -> tuple[str, bool]:
    """Return the line that called a function of torch, ``file:line``, and whether a library did.

    It is the innermost line of the user's own code, else the one of the library that called torch;
    empty where this package called it.

    Args:
        frame: of the call, or of torch's function.
    """
    nearest, library = "", False
    while frame is not None:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        line = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        if package == "torch":
            pass
        elif package == OWN:
            return nearest, library
        elif package not in LIBRARIES:
            return line, library
        else:
            nearest, library = nearest or line, True
        frame = frame.f_back
    return nearest, library
