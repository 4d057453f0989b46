"""A clock for the parts of a step, each without those that lie inside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

WAIT, COLLATOR, COPY = "loader wait", "collator", "copy"
FORWARD, BACKWARD, CLIP = "forward", "backward", "clip"
COMMUNICATION, OPTIMIZER, OTHER = "communication", "optimizer", "other"
PARTS = (WAIT, COLLATOR, COPY, FORWARD, BACKWARD, COMMUNICATION, CLIP, OPTIMIZER, OTHER)
"""Parts of a step, in their order."""


class Clock:
    """Adds up the seconds of parts.

    Args:
        device: whose queue is waited for at each end of a part, if it has one.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._waits = device.type == "cuda"
        self.parts: dict[str, float] = defaultdict(float)
        self.apart = True
        """Whether parts are told apart; else the device is not waited for within a step."""
        self._inside: list[float] = []

    def wait(self) -> float:
        """Wait until the device has done what it was given; return the time."""
        if self._waits:
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def timing(self, part: str) -> Iterator[None]:
        """Add the block's seconds to a part, less those of parts inside the block."""
        if not self.apart:
            yield
            return
        begin = self.wait()
        self._inside.append(0.0)
        try:
            yield
        finally:
            taken = self.wait() - begin
            self.parts[part] += taken - self._inside.pop()
            if self._inside:
                self._inside[-1] += taken

    def timed(self, part: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function whose calls are added to a part."""

        def timing(*args: Any, **kwargs: Any) -> Any:
            with self.timing(part):
                return fn(*args, **kwargs)

        return timing
