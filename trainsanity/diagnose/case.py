"""A log together with what is known of its run."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from trainsanity.diagnose.entries import Entry, Log
from trainsanity.diagnose.expected import ROWS, share_of_peak

DEFAULT_CLIP, DEFAULT_SCHEDULE = 1.0, "linear"
"""The defaults of ``TrainingArguments``; a log does not hold them."""


@dataclass(frozen=True)
class Known:
    """Settings of the run that the user or the log's own files give; None where neither does."""

    num_labels: int | None = None
    hidden_size: int | None = None
    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    world_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: float | None = None
    max_steps: int | None = None
    max_grad_norm: float | None = None
    lr_scheduler_type: str | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is known, by name."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in every.items() if value is not None}


class Case:
    """A log, what is known of its run, and what follows from both.

    Args:
        log: as read.
        known: as given; the log's own facts fill the gaps.
        command: target and arguments of ``trainsanity run`` in commands that are suggested.
        share: share of the peak rate after k steps; computed from what is known if it is None.
    """

    def __init__(
        self,
        log: Log,
        known: Known,
        command: Sequence[str] = ("YOUR_SCRIPT.py",),
        share: Callable[[int], float] | None = None,
    ) -> None:
        self.log = log
        self.command = tuple(command)
        self._share = share
        own = {name: log.facts[name] for name in Known.__dataclass_fields__ if name in log.facts}
        self.facts: dict[str, Any] = own | known.facts()

    def __getattr__(self, name: str) -> Any:
        if name in Known.__dataclass_fields__:
            return self.facts.get(name)
        raise AttributeError(name)

    @property
    def together(self) -> int | None:
        """Accumulation x processes, as far as they are given; None if neither is."""
        given = (self.gradient_accumulation_steps, self.world_size)
        if given == (None, None):
            return None
        return int(given[0] or 1) * int(given[1] or 1)

    @property
    def rows(self) -> int:
        """The least number of rows in an optimizer step."""
        return (self.per_device_train_batch_size or ROWS) * (self.together or 1)

    @property
    def clip(self) -> float:
        """``max_grad_norm``."""
        given = self.max_grad_norm
        return DEFAULT_CLIP if given is None else float(given)

    @property
    def schedule_type(self) -> str:
        """``lr_scheduler_type``."""
        return str(self.lr_scheduler_type or DEFAULT_SCHEDULE)

    @cached_property
    def warmup(self) -> int | None:
        """Warm-up in steps; below 1 it is a ratio, as in transformers 5."""
        given = self.warmup_steps
        if given is None or given >= 1 or given == 0:
            return None if given is None else int(given)
        return None if self.max_steps is None else math.ceil(given * self.max_steps)

    @cached_property
    def share(self) -> Callable[[int], float] | None:
        """Share of the peak after k steps; None if the schedule is not known."""
        if self._share is not None or self.warmup is None:
            return self._share
        return share_of_peak(self.schedule_type, self.warmup, self.max_steps)

    def step_of(self, entry: Entry) -> int | None:
        """Return the entry's step: from the log, or from its learning rate if only one step has it.

        In a warm-up of W steps to a peak P the rate before step k is (k - 1) P / W and after it
        k P / W; which of the two a log holds is not known, so k lies in [x, x + 1] for
        x = rate W / P, give or take the last digit of the log.
        """
        if entry.step is not None:
            return entry.step
        peak, warmup, rate = self.learning_rate, self.warmup, entry.learning_rate
        if not (peak and warmup and rate and rate < peak * (1 - 1 / warmup)):
            return None
        if self.schedule_type == "constant":
            return None
        x, slack = rate * warmup / peak, entry.rate_unit * warmup / peak
        if not math.isfinite(x + slack):
            return None
        steps = range(math.ceil(x - slack), math.floor(x + 1 + slack) + 1)
        return steps[0] if len(steps) == 1 else None

    def where(self, entry: Entry) -> str:
        """Return the entry's step in words, or its place."""
        step = self.step_of(entry)
        if entry.step is None and step is not None:
            return f"step {step} (by its learning rate)"
        return entry.where

    @property
    def steps_at_peak(self) -> float | None:
        """The steps so far, counted in steps at the peak rate; None if it cannot be computed."""
        if not self.log.last:
            return None
        step = self.step_of(self.log.last[-1])
        if step is not None and self.share is not None:
            total = math.fsum(self.share(k) for k in range(1, min(step, 10**6) + 1))
            if math.isfinite(total):
                return total
        return self._logged_steps_at_peak()

    def _logged_steps_at_peak(self) -> float | None:
        kept = self.log.kept
        rates = [e.learning_rate for e in kept if e.learning_rate is not None]
        peak = self.learning_rate or max(rates, default=0.0)
        if not peak or len(rates) < len(kept):
            return None
        total, before = 0.0, 0
        for entry in kept:
            if entry.step is None:
                return None
            total += (entry.learning_rate or 0.0) / peak * max(entry.step - before, 0)
            before = entry.step
        return total

    def rerun_command(self, *codes: str) -> str:
        """Return the command that computes what a log can only suggest."""
        target, *arguments = self.command
        own = ["--", *arguments] if arguments else []
        return shlex.join(["trainsanity", "run", target, "--select", ",".join(codes), *own])
