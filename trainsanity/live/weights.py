"""Measure on a sample whether weights move, by dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trainsanity.types import Finding, Measured, Skip

STEPS = 10
"""Steps with a learning rate above 0 after which the sample is compared."""

TENSORS, ELEMENTS = 4, 4_096
"""Tensors of each dtype, and elements of each tensor: 64 kB in float32."""

FINEST = ("float32", "float64")
"""As in TS702: dtypes of weights for which no finer one is used in training."""

HALF = 0.5
"""As in TS702: half is where most of an update is lost."""


@dataclass
class Sample:
    """Elements of a few tensors of one dtype, as they were at the start."""

    tensors: list[Any] = field(default_factory=list)
    before: list[Any] = field(default_factory=list)

    def add(self, parameter: Any) -> None:
        """Copy evenly spaced elements of one more tensor."""
        self.tensors.append(parameter)
        self.before.append(_elements(parameter).clone())

    def moved(self) -> float:
        """Return the share of the elements that have changed."""
        changed = [
            (_elements(now) != old).float().mean()
            for now, old in zip(self.tensors, self.before, strict=True)
        ]
        return float(sum(changed)) / len(changed)

    def can_move(self, rate: float) -> float:
        """Return the share of the elements that an update as large as the rate would change."""
        from trainsanity.measurements.step.update import can_move

        shares = [can_move(old, rate).float().mean() for old in self.before]
        return float(sum(shares)) / len(shares)


class Weights:
    """Compares a sample after the first :data:`STEPS` steps that can have moved it."""

    def __init__(self, model: Any, optimizer: Any, peak: float) -> None:
        self._samples = _samples(model)
        self._optimizer = getattr(optimizer, "optimizer", optimizer)
        self._peak = peak
        self._steps = 0
        self._highest = 0.0

    def stepped(self) -> bool:
        """Count a step of the optimizer; return whether it is time to compare."""
        rate = max(float(group["lr"]) for group in self._optimizer.param_groups)
        self._steps += rate > 0
        self._highest = max(self._highest, rate)
        return self._steps == STEPS and rate > 0

    def move(self) -> Iterator[Measured | Finding]:
        """Judge whether weights that could move have moved."""
        if not self._samples:
            raise Skip("no weights that are whole on one device")
        shares, predicted = {}, {}
        for dtype, sample in self._samples.items():
            moved = shares[dtype] = sample.moved()
            can = predicted[dtype] = sample.can_move(self._highest)
            if moved == 0 and can >= HALF and self._moves_by_rate:
                yield Finding(
                    f"none of the sampled {dtype} weights moved in {STEPS} steps, although "
                    f"{can:.1%} of them could at a learning rate of {self._highest:g}",
                    observed=moved,
                    expected=can,
                    where=f"{dtype} weights",
                    cause="the optimizer does not hold them, or their gradients are zero",
                    fix="build the optimizer after the last change to the model",
                )
        by_dtype = (f"{d} {s:.2%} (predicted {predicted[d]:.2%})" for d, s in shares.items())
        yield Measured(
            f"sampled weights that moved in {STEPS} steps at up to {self._highest:g}: "
            + ", ".join(by_dtype),
            shares,
            predicted,
        )

    def survive(self) -> Iterator[Measured | Finding]:
        """Judge whether an update at the peak rate survives rounding to the weights' dtype."""
        if not self._samples:
            raise Skip("no weights that are whole on one device")
        if not self._moves_by_rate:
            name = type(self._optimizer).__name__
            raise Skip(f"the updates of {name} are not as large as the learning rate")
        shares = {dtype: s.can_move(self._peak) for dtype, s in self._samples.items()}
        for dtype, share in shares.items():
            if share < HALF:
                finest = dtype in FINEST
                yield Finding(
                    f"at the peak learning rate {self._peak:g} an update changes {share:.1%} of "
                    f"the {dtype} weights; the others are rounded back",
                    observed=share,
                    expected=HALF,
                    where=f"{dtype} weights",
                    cause=("" if finest else f"the weights themselves are {dtype}: ")
                    + "half a unit in their last place is more than an update of the size of the "
                    "learning rate",
                    fix="raise the learning rate"
                    if finest
                    else "load them with dtype=torch.float32 and train with bf16=True",
                )
        by_dtype = ", ".join(f"{dtype} {share:.2%}" for dtype, share in shares.items())
        yield Measured(
            f"sampled weights that an update at the peak {self._peak:g} changes: {by_dtype}",
            shares,
            dict.fromkeys(shares, HALF),
        )

    @property
    def _moves_by_rate(self) -> bool:
        """Return whether an update is about as large as the rate, as in the Adam family."""
        return "adam" in type(self._optimizer).__name__.lower()


def _samples(model: Any) -> dict[str, Sample]:
    import torch

    by_dtype: dict[str, list[Any]] = {}
    for p in model.parameters():
        # Sharded weights are other classes, or empty here.
        if p.requires_grad and p.numel() and type(p) is torch.nn.Parameter and p.dim() > 1:
            by_dtype.setdefault(str(p.dtype).removeprefix("torch."), []).append(p)
    samples: dict[str, Sample] = {}
    for dtype, parameters in by_dtype.items():
        stride = max(1, len(parameters) // TENSORS)
        # From the end: the head is there, and what lies nearest to it.
        samples[dtype] = Sample()
        for p in parameters[::-1][::stride][:TENSORS]:
            samples[dtype].add(p)
    return samples


def _elements(parameter: Any) -> Any:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, len(flat) // ELEMENTS)][:ELEMENTS]
