"""Throughput and the wait for rows, beside those of the first steps."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from trainsanity.maths.repetitions import WORTH
from trainsanity.types import Finding, Measured, Severity

WARM = 3
"""Steps that are left out: kernels are chosen, and the optimizer's state is made."""

FIRST, WINDOW = 40, 20
"""First steps, and last ones that are held against them.  Were all of them alike, the median of the
last 20 would lie beyond each of the first 40 in one of 400,000 windows: the ten furthest of sixty
steps would all have to be among the twenty, C(20, 10) / C(60, 10)."""


class Pace:
    """Notes each step's seconds, positions, and how long it waited for its rows.

    Evaluations, checkpoints and logs lie between steps and do not count.
    """

    def __init__(self, model: Any, *, hooked: bool) -> None:
        self._positions = 0
        self._handle: Any = None
        if hooked:
            self._handle = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._last: float | None = None
        self._begun: float | None = None
        self._steps = 0
        self.first: list[tuple[float, float, int]] = []
        """Seconds, seconds of waiting, and positions of the first steps."""
        self.window: deque[tuple[float, float, int]] = deque(maxlen=WINDOW)

    def _count(self, module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if hasattr(ids, "numel"):
            self._positions += ids.numel()

    def end(self) -> None:
        """Take the hook away."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def pause(self) -> None:
        """Begin anew after something that is no step: an evaluation, a checkpoint, a log."""
        if self._last is not None:
            self._last = time.perf_counter()

    def interrupt(self) -> None:
        """Leave the next step out: an epoch begins, and its loader with it."""
        self._last = None

    def begin_step(self) -> None:
        """Note that a step has its rows."""
        self._begun = time.perf_counter()
        self._positions = 0

    def end_step(self) -> bool:
        """Note a step; return whether it is time to judge."""
        now, last, begun = time.perf_counter(), self._last, self._begun
        self._last, self._begun = now, None
        if last is None or begun is None:
            return False
        self._steps += 1
        if self._steps <= WARM:
            return False
        step = (now - last, begun - last, self._positions)
        if len(self.first) < FIRST:
            self.first.append(step)
            return False
        self.window.append(step)
        # No step stands in two windows.
        return (self._steps - WARM - FIRST) % WINDOW == 0

    @property
    def questions(self) -> dict[str, Callable[[], Iterator[Measured | Finding]]]:
        """Return what can be answered now, by the names of checks."""
        asked: dict[str, Callable[[], Iterator[Measured | Finding]]] = {
            "speed.loader_keeps_up": self._wait
        }
        if self._comparable:
            asked["speed.steps_take_alike"] = self._throughput
        return asked

    @property
    def _comparable(self) -> bool:
        """Return whether the last steps have as many positions as some of the first."""
        first = [positions for *_, positions in self.first]
        middle = statistics.median(positions for *_, positions in self.window)
        return 0 < min(first) <= middle <= max(first)

    def _throughput(self) -> Iterator[Measured | Finding]:
        # The wait for rows has a question of its own.
        first = [positions / (seconds - wait) for seconds, wait, positions in self.first]
        last = [positions / (seconds - wait) for seconds, wait, positions in self.window]
        then, now = statistics.median(first), statistics.median(last)
        if now < min(first) and now < (1 - WORTH) * then:
            yield Finding(
                f"the last {WINDOW} steps compute {now:,.4g} positions a second, and the first "
                f"{FIRST} computed {then:,.4g}, none of them below {min(first):,.4g}",
                observed=round(now, 2),
                expected=round(then, 2),
                factor=now / then,
                cause="something grows with each step, or the device or the machine has got slower",
                fix="look for lists and caches that hold what steps made, and at the device's "
                "clocks and temperature",
                severity=Severity.WARNING,
            )
        yield Measured(
            f"{now:,.4g} positions a second in the last {WINDOW} steps, {then:,.4g} in the first "
            f"{FIRST}",
            round(now, 2),
            round(then, 2),
        )

    def _wait(self) -> Iterator[Measured | Finding]:
        first = [wait for _, wait, _ in self.first]
        then, now = statistics.median(first), statistics.median(wait for _, wait, _ in self.window)
        step = statistics.median(seconds for seconds, *_ in self.first)
        if now > max(first) and now - then > WORTH * step:
            yield Finding(
                f"the last {WINDOW} steps wait {now:.3g} s each for their rows, and the first "
                f"{FIRST} waited {then:.3g} s, none of them longer than {max(first):.3g} s, of "
                f"{step:.3g} s a step",
                observed=round(now, 6),
                expected=round(then, 6),
                factor=now / then if then else None,
                cause="rows take longer to read or to collate than at first, or the workers that "
                "read them have others beside them",
                fix="dataloader_num_workers; look at what the rows are read from",
                severity=Severity.WARNING,
            )
        yield Measured(
            f"{now:.3g} s of waiting for rows in each of the last {WINDOW} steps, {then:.3g} s in "
            f"the first {FIRST}",
            round(now, 6),
            round(then, 6),
        )
