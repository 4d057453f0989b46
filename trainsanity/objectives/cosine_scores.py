"""Scores that are cosines times a number: how far a softmax over them can come."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.loss_arguments import Misfit

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 8
"""Vectors of length 1, and cosines, that are kept: two sides of a pair, and a few views."""

ROUNDING = 1e-4
"""Least difference from cosines times a number: float32's sums over a thousand dimensions."""

LARGEST = 4096
"""Rows or columns of scores that are looked at, at the most."""

FEWEST = 4
"""Candidates from which on a floor near the logarithm of their number is no matter of taste."""

HIDDEN = -1e4
"""A score at which a candidate is left out; see loss.negatives_are_others."""

SHARE = 0.9
"""Share of log n, the loss where nothing is known, above which the floor leaves nothing to learn.
Chosen: cosines alone (times 1) leave 56 % with 8 candidates, 82 % with 256 and 86 % with a
thousand, and are learnt from, slowly; times 0.1 they leave 95 % with 8."""

NODES = 64
"""Nodes of the graph that are looked at for a temperature that is trained."""


@dataclass
class CosineScores:
    """The last vectors of length 1, and the last cosines, that a gradient will come to."""

    units: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))
    cosines: deque[Tensor] = field(default_factory=lambda: deque(maxlen=KEPT))

    def note_units(self, made: Any) -> None:
        """Keep a matrix whose rows, or columns, have the length 1, with these as rows."""
        if not _matrix(made):
            return
        for rows in (made.detach(), made.detach().T):
            lengths = rows.float().norm(dim=1)
            if bool(((lengths - 1).abs() <= max(ROUNDING, 4 * _eps(made))).all()):
                self.units.append(rows)
                return

    def note_cosines(self, made: Any) -> None:
        """Keep a matrix of cosines."""
        if _matrix(made):
            self.cosines.append(made.detach())

    def misfit(self, scores: Tensor) -> Misfit | None:
        """Return what is wrong with scores that a softmax is taken of, row by row."""
        if not _matrix(scores) or scores.shape[1] < FEWEST or _trains_a_number(scores.grad_fn):
            return None
        factor = self._factor(scores.detach())
        if factor is None:
            return None
        count = scores.shape[1]
        # The best there is: the partner at a cosine of 1, all others as far away as so many can be.
        floor = math.log1p((count - 1) * math.exp(-abs(factor) * count / (count - 1)))
        if floor <= SHARE * math.log(count):
            return None
        return Misfit(
            f"the scores of {count} candidates are cosines times {factor:.4g}: the loss cannot "
            f"fall below {floor:.4g}, and is {math.log(count):.4g} where nothing is known",
            "cosines lie between -1 and 1, and are multiplied by a temperature below 1, which they "
            "are to be divided by",
            "cosines / temperature, or cosines * scale with a scale such as 20",
        )

    def _factor(self, scores: Tensor) -> float | None:
        """Return what number times cosines the scores are; None if they are something else."""
        rows, columns = scores.shape
        found = [one for one in self.cosines if one.shape == scores.shape]
        pairs = itertools.product(self.units, self.units)
        sides = (
            (a, b)
            for a, b in pairs
            if len(a) == rows and len(b) == columns and a.shape[1] == b.shape[1]
        )
        shown = scores.float() > HIDDEN
        for cosines in itertools.chain(found, (a.float() @ b.float().T for a, b in sides)):
            given, plain = scores.float()[shown], cosines.float()[shown]
            # Before anything is learnt cosines may all be near 1: their spread is what tells.
            eps, spread = 4 * _eps(scores), float(plain.std()) if plain.numel() > 1 else 0.0
            if spread <= 8 * eps:
                continue
            factor = float((given @ plain) / (plain @ plain))
            allowed = abs(factor) * max(eps, min(ROUNDING, spread / 16))
            if factor and float((given - factor * plain).abs().max()) <= allowed:
                return factor
        return None


def _matrix(values: Any) -> bool:
    return (
        getattr(values, "grad_fn", None) is not None
        and values.dim() == 2
        and values.is_floating_point()
        and 1 < max(values.shape) <= LARGEST
    )


def _eps(values: Tensor) -> float:
    import torch

    return float(torch.finfo(values.dtype).eps)


def _trains_a_number(node: Any) -> bool:
    """Return whether a parameter of one number, a temperature, is near in the graph."""
    waiting, looked = deque([node]), 0
    while waiting and looked < NODES:
        node = waiting.popleft()
        looked += 1
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf.numel() == 1:
            return True
        waiting += [one for one, _ in node.next_functions if one is not None]
    return False
