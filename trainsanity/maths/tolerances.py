"""How much difference is arithmetic: each bound with its origin.

Where the noise can be measured on the pipeline itself it is; where it cannot, the bound counts
the roundings of the dtype in question.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MARGIN = 4.0
"""How many times a measured noise floor is allowed.  Floor and difference are two draws of one
statistic of n roundings: their largest, or the length of all of them.  For normal ones the largest
of one draw exceeds four times that of another with a probability of 0.001 at n = 8, 1e-6 at 24
and 1e-10 at 64 (`tests/test_tolerances.py` integrates it), and lengths differ less; what is
compared here has dozens of elements and more.  A real effect (another token pooled, a
scale of 2) lies beyond it by orders of magnitude."""

REDUCTIONS = 64 * 2.0**-23
"""Relative difference that is the order of float32 reductions: the error of a sum of n terms grows
as sqrt(n) units, and the longest sums here have a few thousand."""

STANDARD_ERRORS = 4.0
"""Width of a band around a mean, in its own standard errors: for a normal mean one healthy run in
about 30,000 falls above it."""

LOG_DECIMALS = 5e-5
"""Half a unit of the fourth decimal: transformers 4 rounds the logged loss to four."""

UNEVEN = 3.0
"""A token of one batch weighs this many times as much as one of another before it is worth a word:
texts of ordinary lengths in batches of eight stay below 2.  A last resort."""


def within(seen: float, allowed: float) -> bool:
    """Return whether a difference is no more than arithmetic explains; never for a NaN.

    An infinite bound explains nothing: a NaN or an infinity went into it.
    """
    return seen <= allowed < math.inf


@dataclass(frozen=True)
class Difference:
    """The greatest difference of a comparison, beside the bound that it is held against.

    Attributes:
        greatest: the measured difference.
        allowed: what arithmetic explains.
        unit: what both are shares of, as "of the norm"; empty for absolute ones.
    """

    greatest: float
    allowed: float
    unit: str = ""

    @property
    def explained(self) -> bool:
        """Return whether arithmetic explains the difference; see :func:`within`."""
        return within(self.greatest, self.allowed)

    def __str__(self) -> str:
        """Return the sentence that every comparison ends with, true on both sides of the bound."""
        unit = f" {self.unit}" if self.unit else ""
        return f"greatest difference {self.greatest:.3g}{unit}, up to {self.allowed:.2g} allowed"


def worst(differences: Iterable[Difference]) -> Difference | None:
    """Return the one that is nearest to its bound, or furthest beyond; None if there are none."""

    def share(one: Difference) -> float:
        ratio = one.greatest / one.allowed if one.allowed else math.inf * one.greatest
        return math.inf if math.isnan(ratio) else ratio

    return max(differences, key=share, default=None)


def largest(values: Iterable[float], default: float = 0.0) -> float:
    """Return the largest; NaN if any is, which ``max`` finds only in the first place."""
    found = list(values)
    return math.nan if any(map(math.isnan, found)) else max(found, default=default)


def logits_difference(dtype: Any, noise: float, size: float, unit: float = 0.0) -> float:
    """Return the bound on the difference between equal rows in two arrangements.

    In float32 four times what arithmetic makes of them: the larger of what one unit in the last
    place of the weights does and of the measured noise, and of that no more than
    :func:`most_noise`.  Less than torch.testing's default relative tolerance (1.3e-6) of the
    largest logit is never demanded: a noise of exactly zero only shows that the kernels of those
    two shapes happen to agree.  For the same reason no noise is asked in a dtype of 16 bits, where
    that says little of a third shape: four units in its last place are allowed.

    Args:
        dtype: in which the rows were computed.
        noise: measured difference between equal rows in two batch shapes.
        size: largest absolute value of what is compared.
        unit: measured effect of one unit in the last place of the weights, see :func:`shaken`.
    """
    import torch

    eps = torch.finfo(dtype).eps
    if dtype.itemsize < torch.float32.itemsize:
        return MARGIN * eps * size
    # In float64, too: models of transformers take their softmax, norms and rotations in float32.
    relative = 1.3e-6
    # What is infinite explains nothing.
    known = min(noise, most_noise(dtype, size, unit)) if math.isfinite(noise) else noise
    explained = largest((unit, known))
    return largest((MARGIN * explained, relative * size))


def same_shape_difference(eps: float, size: float, unit: float = 0.0) -> float:
    """Return the bound on the difference between two passes of one shape, by the same kernels.

    Four units in the last place and the order of float32 sums, of the largest output; of many
    layers four times what one unit in the last place of the weights does.

    Args:
        eps: unit in the last place of the dtype in which they were computed.
        size: largest absolute value of what is compared.
        unit: measured effect of one unit in the last place of the weights, see :func:`shaken`; 0
            where it was not asked.
    """
    return largest(((MARGIN * eps + REDUCTIONS) * size, MARGIN * unit))


def most_noise(dtype: Any, size: float, unit: float = 0.0) -> float:
    """Return how much another batch shape may change what a model computes that is right.

    The order of sums, or the shaking of the weights if that does more.  A model that mixes rows
    differs by more, and that difference lifts no bound.
    """
    import torch

    if dtype.itemsize < torch.float32.itemsize:
        return float(torch.finfo(dtype).eps * size)
    return largest((REDUCTIONS * size, unit))


def shaken(dtype: Any, effect: float, longest: int, size: float) -> float:
    """Return what the roundings of a pass make, from what one unit of the weights makes.

    A sum of n products that is taken in sqrt(n) parts, as kernels do, ends as a random walk of
    about n^(1/4) roundings each, where the weights were moved by one.  No more than half of the
    dtype's digits: outputs that lose more have no digits to compare.

    Args:
        dtype: in which the rows were computed.
        effect: largest difference under weights moved by one unit in their last place.
        longest: terms of the longest sum.
        size: largest absolute value of what was compared.
    """
    import torch

    if not math.isfinite(effect):
        return effect
    most = math.sqrt(torch.finfo(dtype).eps) * size / MARGIN
    return float(min(effect * max(longest, 1) ** 0.25, most))
