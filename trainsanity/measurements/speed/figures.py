"""Figures of steps that were taken by the clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainsanity.fields import IDS, MASK
from trainsanity.maths.repetitions import Ratio
from trainsanity.measurements.speed.operations import Operations


@dataclass(frozen=True)
class Alternative:
    """Another setting, and what it makes of a step.

    Attributes:
        kind: what is set: ``attention``, ``tf32``, ``checkpointing``, ``padding``, ``optimizer``,
            ``loader``.
        name: the other value.
        now: the value in use.
        ratio: seconds of a step with it over those without.
        agrees: whether the loss is the same but for arithmetic; None where it cannot differ.
        words: what else there is to say.
    """

    kind: str
    name: str
    now: str
    ratio: Ratio
    agrees: bool | None = None
    words: str = ""


@dataclass
class MicroPass:
    """The last micro-batch of a step, to be taken again.

    Attributes:
        take: takes a batch forward and backward, and returns its loss.
        inputs: the batch.
        seconds: that it took.
        optimizer: the run's own, once the step is over.
    """

    take: Callable[[Any], Any]
    inputs: Any
    seconds: float
    optimizer: Any = None


@dataclass
class Micro:
    """One micro-batch.

    Attributes:
        fetch: seconds that its batch was waited for.
        seconds: those of the training step, as a whole.
        rows, positions, tokens: of the batch; tokens are those that the mask shows.
        apart: whether its parts were told apart, for which the device is waited for.
        backward: seconds of its backward pass, where they were.
        last: whether it is the last of its step, whose backward pass other processes wait for.
    """

    fetch: float = 0.0
    seconds: float = 0.0
    rows: int = 0
    positions: int = 0
    tokens: int = 0
    apart: bool = False
    backward: float = 0.0
    last: bool = False


@dataclass
class Clocked:
    """Steps after the first one, which warms up, in the order in which they were taken.

    Attributes:
        steps: seconds of each.
        micros: the micro-batches of all of them.
        parts: seconds of each part, over the steps whose parts were told apart.
        parts_of: seconds of all that the parts are of.
        operations: of one micro-batch.
        peak_bytes: the most device memory in use; None on a CPU.
        alternatives: what other settings make of a step.
        untried: why something was not measured, a sentence each.
        processes: how many take each step together.
        max_steps: of the whole run.
    """

    steps: list[float] = field(default_factory=list)
    micros: list[Micro] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    parts_of: float = 0.0
    operations: Operations | None = None
    peak_bytes: int | None = None
    alternatives: list[Alternative] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    processes: int = 1
    max_steps: int = 0

    @property
    def seconds(self) -> float:
        """Mean seconds of a step."""
        return statistics.fmean(self.steps)

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        if len(self.steps) < 2:
            return 0.0
        return float(statistics.stdev(self.steps) / len(self.steps) ** 0.5)

    def share(self, *names: str) -> float:
        """Return the share of a step that these parts take."""
        return sum(self.parts.get(name, 0.0) for name in names) / (self.parts_of or 1.0)

    @property
    def rates(self) -> dict[str, float]:
        """Rows, positions and attended tokens a second, over all processes."""
        total = sum(self.steps)
        counts = {
            "rows": sum(one.rows for one in self.micros),
            "tokens": sum(one.positions for one in self.micros),
            "attended_tokens": sum(one.tokens for one in self.micros),
        }
        return {name: self.processes * n / total for name, n in counts.items() if n}


def sizes_of(inputs: Any) -> tuple[int, int, int]:
    """Return the rows, positions and attended tokens of a batch, as far as it shows them."""
    import torch

    if not isinstance(inputs, Mapping):
        return (len(inputs), 0, 0) if isinstance(inputs, Sequence) else (0, 0, 0)
    tensors = [value for value in inputs.values() if torch.is_tensor(value) and value.dim()]
    rows = len(tensors[0]) if tensors else 0
    ids, mask = inputs.get(IDS), inputs.get(MASK)
    positions = ids.numel() if torch.is_tensor(ids) else 0
    attended = int(mask.bool().sum()) if torch.is_tensor(mask) else positions
    return rows, positions, attended
