"""The entries of a training log, kept in constant memory."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

HEAD = 32
"""Entries kept from each end of the log: enough for a mean and its spread."""

KEPT = 4_096
"""Entries kept of the whole; when there are more, every second one is dropped, again and again."""

_ALIASES = {
    "step": ("step", "global_step", "steps", "current_steps", "iteration", "iter", "_step"),
    "loss": ("loss", "train_loss", "training_loss"),
    "eval_loss": ("eval_loss", "eval/loss", "val_loss", "valid_loss", "validation_loss"),
    "grad_norm": ("grad_norm", "gradient_norm", "gradnorm", "grad_norm_before_clip"),
    "learning_rate": ("learning_rate", "lr"),
    "epoch": ("epoch",),
}
_FIELD = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}

_DECORATION = " \t*`'\""
"""Characters that Markdown and quotes put around a word."""

_CALL = re.compile(r"[a-z][\w.]*\(([^,)]+)")
"""A number as numpy and torch print it: ``np.float64(2.5)``, ``tensor(2.5, device='cuda:0')``."""

SUMMARY = "train_runtime"
"""Only the line that the Trainer prints at the end has it; its ``train_loss`` is a mean."""


@lru_cache(maxsize=1024)
def field_of(name: str) -> str | None:
    """Return the field that a column or key stands for, however decorated; None for others."""
    plain = name.strip(_DECORATION).lower().removeprefix("train/")
    return _FIELD.get(plain.replace(" ", "_").replace("-", "_"))


@dataclass(slots=True)  # not frozen: a log has millions, and those take twice as long to make
class Entry:
    """One line of a log.

    Attributes:
        place: its place in the log, as ``line 12``.
        step: the optimizer step, where the log has it.
        loss, grad_norm, learning_rate, eval_loss, epoch: None where the log has none.
        rate_text: the learning rate as it is written.
    """

    place: str
    step: int | None = None
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    eval_loss: float | None = None
    epoch: float | None = None
    rate_text: str = ""

    @property
    def rate_unit(self) -> float:
        """One unit in the last written digit of the learning rate: logs are rounded, or cut."""
        try:
            exponent = Decimal(self.rate_text).as_tuple().exponent
        except InvalidOperation:
            return 0.0
        return 10.0**exponent if isinstance(exponent, int) else 0.0

    @property
    def where(self) -> str:
        """The step if it is known, else the place."""
        return self.place if self.step is None else f"step {self.step}"


def entry_of(values: Mapping[str, Any], place: str) -> Entry | None:
    """Return the entry in a line's keys and values; None if they hold none."""
    if SUMMARY in values:
        return None
    found: dict[str, float] = {}
    rate = ""
    for key, value in values.items():
        name = field_of(key if type(key) is str else str(key))
        if name is None or name in found:
            continue
        number = _number(value)
        if number is None:
            continue
        found[name] = number
        if name == "learning_rate":
            rate = str(value).strip(_DECORATION)
    if "loss" not in found and "eval_loss" not in found and "grad_norm" not in found:
        return None
    step = found.pop("step", None)
    whole = None if step is None or not math.isfinite(step) else int(step)
    return Entry(place, whole, rate_text=rate, **found)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return float(value)  # nearly always a number as it is
        except ValueError:
            value = value.strip(_DECORATION)
        if (call := _CALL.match(value)) is not None:
            value = call[1]
    elif value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _wider(known: tuple[float, float], more: Extremes) -> tuple[float, float]:
    return min(known[0], more.low), max(known[1], more.high)


@dataclass(frozen=True)
class Extremes:
    """The lowest and highest finite of many numbers, and how many are not finite, or zero.

    Attributes:
        first_bad: the index of the first that is not finite.
    """

    low: float
    high: float
    bad: int
    first_bad: int | None
    zeros: int


@dataclass
class Log:
    """The last run in a log, in constant memory.

    Attributes:
        name: the log's name in reports.
        first, last: the entries with a loss at both ends.
        kept: entries with a loss, evenly thinned.
        evals: the last entry with a loss before an evaluation, and the evaluation.
        count, evaluations: entries with a loss, and with an evaluation's.
        bad_losses, bad_norms, zero_norms: how many are not finite, or zero, and the first of them.
        norms: lowest and highest finite gradient norm.
        losses: lowest and highest finite loss.
        facts: settings of the run that the log itself holds, e.g. ``max_steps``.
        notes: what the user should know about how the log was read.
    """

    name: str
    first: list[Entry] = field(default_factory=list)
    last: deque[Entry] = field(default_factory=lambda: deque(maxlen=HEAD))
    kept: list[Entry] = field(default_factory=list)
    evals: deque[tuple[Entry, Entry]] = field(default_factory=lambda: deque(maxlen=HEAD))
    count: int = 0
    evaluations: int = 0
    bad_losses: int = 0
    bad_loss: Entry | None = None
    bad_norms: int = 0
    bad_norm: Entry | None = None
    norm_count: int = 0
    zero_norms: int = 0
    norms: tuple[float, float] = (math.inf, -math.inf)
    losses: tuple[float, float] = (math.inf, -math.inf)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    runs: int = 1
    resumed: int = 0
    _stride: int = 1
    _late_start: str | None = None
    _back: str = ""

    @property
    def empty(self) -> bool:
        """Return whether the log holds nothing that could be judged."""
        return not (self.count or self.norm_count or self.evaluations)

    @property
    def interval(self) -> int | None:
        """Steps between the first two entries: the Trainer logs means over that many."""
        steps = [entry.step for entry in self.first[:2]]
        if len(steps) < 2 or steps[0] is None or steps[1] is None:
            return None
        return steps[1] - steps[0]

    def add(self, entry: Entry) -> None:
        """Add the next entry; steps that go back begin another run or resume this one."""
        if entry.loss is not None:
            if self._is_repeated(entry):
                return
            self._follow(entry)
            self._keep(entry)
        if entry.grad_norm is not None:
            self._norm(entry, entry.grad_norm)
        if entry.eval_loss is not None:
            self.evaluations += 1
            if self.last:
                self.evals.append((self.last[-1], entry))

    def add_between(
        self,
        count: int,
        losses: Extremes,
        norms: Extremes | None,
        entry: Callable[[int], Entry],
    ) -> None:
        """Add entries with a loss whose steps go on from the last one; few of them are made.

        Args:
            count: how many.
            losses: their losses.
            norms: their gradient norms; None if they have none.
            entry: makes the one at an index.
        """
        self.first += [entry(index) for index in range(min(HEAD - len(self.first), count))]
        self.last.extend(entry(index) for index in range(max(count - HEAD, 0), count))
        # The next that has a multiple of the stride as its number, counted from 1.
        number = self.count - self.count % self._stride + self._stride
        while number <= self.count + count:
            self._thin(entry(number - self.count - 1))
            number += self._stride - number % self._stride
        self.count += count
        self.losses = _wider(self.losses, losses)
        self.bad_losses += losses.bad
        if losses.first_bad is not None:
            self.bad_loss = self.bad_loss or entry(losses.first_bad)
        if norms is None:
            return
        self.norm_count += count
        self.zero_norms += norms.zeros
        self.norms = _wider(self.norms, norms)
        self.bad_norms += norms.bad
        if norms.first_bad is not None:
            self.bad_norm = self.bad_norm or entry(norms.first_bad)

    def _thin(self, entry: Entry) -> None:
        """Keep an entry of the whole, and drop every second one where they are too many."""
        self.kept.append(entry)
        if len(self.kept) >= KEPT:
            self.kept = self.kept[::2]
            self._stride *= 2

    def _is_repeated(self, entry: Entry) -> bool:
        """Return whether it is printed again: progress bar and logger print the same entry."""
        before = self.last[-1] if self.last else None
        return (
            before is not None
            and entry.step is not None
            and (before.step, before.loss) == (entry.step, entry.loss)
        )

    def _follow(self, entry: Entry) -> None:
        if not self.last:
            return
        what = "epoch" if entry.step is None else "step"
        start, before, now = (getattr(one, what) for one in (self.first[0], self.last[-1], entry))
        if start is None or before is None or now is None or now > before:
            return
        # Epochs are rounded, so that neighbours may have the same.
        if now == before and what == "epoch":
            return
        if now <= start:
            fresh = Log(self.name, facts=self.facts, notes=self.notes, runs=self.runs + 1)
            fresh._late_start = entry.place
            self.__dict__.update(fresh.__dict__)
        else:
            self.resumed += 1
            self._back = self._back or f"{entry.place} goes back from {what} {before:g} to {now:g}"

    def _keep(self, entry: Entry) -> None:
        assert entry.loss is not None
        self.count += 1
        if len(self.first) < HEAD:
            self.first.append(entry)
        self.last.append(entry)
        if self.count % self._stride == 0:
            self._thin(entry)
        if math.isfinite(entry.loss):
            self.losses = (min(self.losses[0], entry.loss), max(self.losses[1], entry.loss))
        else:
            self.bad_losses += 1
            self.bad_loss = self.bad_loss or entry

    def _norm(self, entry: Entry, norm: float) -> None:
        self.norm_count += 1
        self.zero_norms += norm == 0
        if math.isfinite(norm):
            self.norms = (min(self.norms[0], norm), max(self.norms[1], norm))
        else:
            self.bad_norms += 1
            self.bad_norm = self.bad_norm or entry

    def closed(self) -> Log:
        """Return the log with its notes on several runs, of which the last one is kept."""
        if self.resumed == 1:
            self.notes.append(
                f"{self._back}: the run was resumed from a checkpoint; both parts are read as one "
                "run"
            )
        elif self.resumed:
            self.notes.append(
                f"{self._back}, and {self.resumed - 1} more do so: a run that was resumed so "
                "often, or several runs that wrote into one log, which are judged as one here"
            )
        if self.runs > 1:
            self.notes.append(
                f"the steps start again {self.runs - 1} time{'s' * (self.runs > 2)}: the log holds "
                f"{self.runs} runs, and the last one, from {self._late_start}, is judged"
            )
        return self
