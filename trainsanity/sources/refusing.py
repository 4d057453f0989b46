"""Keep a Python that cannot judge from training: another environment, without trainsanity."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from trainsanity.sources.handover import Handover
from trainsanity.sources.patching import TRAINER, NewFolders, patched
from trainsanity.sources.travelling import HANDOVER

_held: list[Any] = []


def foreign(why: str) -> str:
    """Return in one sentence that this Python cannot judge, and why."""
    return (
        f"training is started with {sys.executable}, in which trainsanity cannot be imported "
        f"({why}): install it there, too"
    )


def refuse(why: str) -> None:
    """Hand over a refusal, and wait to be ended, where this process begins to train.

    Args:
        why: why trainsanity cannot be imported here.
    """
    handover = Handover(os.environ[HANDOVER])

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        def end(*args: Any, **kwargs: Any) -> Any:
            handover.verdict({"error": foreign(why), "kind": "usage"})
            handover.leave()

        return end

    _held.append(NewFolders(handover.made).noted())
    _held[-1].__enter__()
    for home, method in ((TRAINER, "train"), (("torch", "Tensor"), "backward")):
        _held.append(patched(home, {method: ending}))
        _held[-1].__enter__()
