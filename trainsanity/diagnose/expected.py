"""Compute what a healthy run logs: the loss of a fresh head, the rates of a schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from trainsanity.maths.tolerances import STANDARD_ERRORS

INITIALIZER_RANGE = 0.02
"""Standard deviation of a new head's weights: ``config.initializer_range`` of nearly every model
in transformers."""

WIDTHS = (384, 3_584)
"""Hidden sizes of the checkpoints that people put a head on, from MiniLM to a 7B decoder
(Qwen2-7B).  A log does not hold the width; ``--hidden-size`` gives it."""

MOST_CLASSES = 1_000_000
"""More than any head or vocabulary has."""

ROWS = 8
"""Rows of a step if none are given: the Trainer's default per_device_train_batch_size."""


@cache
def fresh_loss(classes: int, spread: float) -> float:
    """Return the mean of ``logsumexp(z) - z_y`` over independent normal logits of that spread.

    For many classes that is log C + s^2 / 2.  For any number, ``log x`` is the integral of
    ``(exp(-t) - exp(-x t)) / t``, so the mean is that of ``exp(-t) - phi(t)^C`` over log t, with
    phi(t) the mean of ``exp(-t exp(z))``.  Both integrands are smooth and fall off at both ends,
    where the trapezoidal rule is exact to rounding.
    """
    if not spread:
        return math.log(classes)
    step = 0.1
    grid = [k * step for k in range(-80, 81)]  # standard deviations
    density = [math.exp(-g * g / 2) * step / math.sqrt(2 * math.pi) for g in grid]
    values = [math.exp(spread * g) for g in grid]
    width = 0.1
    reach = math.log(classes) + 8 * spread + 40
    total = 0.0
    for k in range(int(-reach / width), int((8 * spread + 10) / width)):
        t = math.exp(k * width)
        phi = sum(d * math.exp(-t * v) for d, v in zip(density, values, strict=True))
        total += (math.exp(-t) - phi**classes) * width
    return total


def healthy_range(classes: int, hidden_size: int | None) -> tuple[float, float]:
    """Return the least and the greatest mean first loss of a freshly initialised head.

    A logit is a row of the head, drawn with :data:`INITIALIZER_RANGE`, times the hidden state, on
    which a final norm leaves a root mean square of 1: its standard deviation is
    ``0.02 sqrt(hidden_size)``.
    """
    widths = (hidden_size, hidden_size) if hidden_size else WIDTHS
    low, high = (fresh_loss(classes, _spread(width)) for width in widths)
    return low, high


def band(classes: int, hidden_size: int | None, rows: int) -> tuple[float, float]:
    """Return :func:`healthy_range`, widened by the noise of a mean over so many rows.

    One row's loss, ``logsumexp(z) - z_y``, varies as its label's logit does.
    """
    widths = (hidden_size, hidden_size) if hidden_size else WIDTHS
    low, high = healthy_range(classes, hidden_size)
    below, above = (STANDARD_ERRORS * _spread(width) / math.sqrt(rows) for width in widths)
    return low - below, high + above


def _spread(width: int) -> float:
    return INITIALIZER_RANGE * math.sqrt(width)


def logit_spread(classes: int, loss: float) -> float:
    """Return the standard deviation of logits with which a fresh head would have that loss."""
    return math.sqrt(2 * max(loss - math.log(classes), 0.0))


def share_of_peak(kind: str, warmup: int, steps: int | None) -> Callable[[int], float] | None:
    """Return the share of the peak rate by optimizer steps; None if it cannot be computed.

    Without ``steps`` the share is NaN after the warm-up of a schedule that decays.
    """
    decays: dict[str, Callable[[float], float]] = {
        "linear": lambda done: 1 - done,
        "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
        "constant_with_warmup": lambda done: 1.0,
        "constant": lambda done: 1.0,
    }
    decay = decays.get(kind)
    if decay is None:
        return _from_transformers(kind, warmup, steps)
    length = 0 if kind == "constant" else warmup

    def share(k: int) -> float:
        if k < length:
            return k / length
        if kind.startswith("constant"):
            return 1.0
        if steps is None:
            return math.nan if k > length else 1.0
        return decay(min((k - length) / max(1, steps - length), 1.0))

    return share


def _from_transformers(kind: str, warmup: int, steps: int | None) -> Callable[[int], float] | None:
    """Return the same for other schedules, if transformers is installed."""
    if steps is None:
        return None
    try:
        import torch
        from transformers import get_scheduler

        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = get_scheduler(kind, optimizer, warmup, steps)
    except (ImportError, ValueError, TypeError):
        return None
    lambdas = getattr(scheduler, "lr_lambdas", None)
    return None if not lambdas else lambda k: float(lambdas[0](k))
