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
        """Whether arithmetic explains the difference; see :func:`within`."""
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


def logits_difference(dtype: Any, noise: float, size: float) -> float:
    """Return the bound on the difference between equal rows in two batch shapes.

    ``noise`` is the measured floor.  Less than torch.testing's default relative tolerance for the
    dtype (1.3e-6 for float32, 1.6e-2 for bfloat16 ...) of the largest logit is never demanded: a
    floor of exactly zero only shows that the kernels of those two shapes happen to agree.
    """
    import torch

    relative = {
        torch.float64: 1e-7,
        torch.float32: 1.3e-6,
        torch.bfloat16: 1.6e-2,
        torch.float16: 1e-3,
    }[dtype]
    return largest((MARGIN * noise, relative * size))
