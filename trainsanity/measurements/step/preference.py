"""The loss of answers that are compared, asked where policy and reference differ.

At step 1 both are the same: implicit rewards are 0, and sigmoid DPO's loss is log 2 whatever beta
is and whichever answer counts as chosen. So the policy's trainable weights are moved a little, at
random from a seed, and put back bit for bit. There the user's own loss is held against the
documented formula on log-probabilities that were seen in the same passes: its value, and its
gradient with respect to what the model returned, for which no pass back through the model is due.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.host_memory import to_device, to_host
from trainsanity.isolation.snapshot import restored
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.answers import Answers, answers_of
from trainsanity.measurements.step.passes import Pass, inner, passes_seen
from trainsanity.objectives.preference import PREFERENCE_TRAINERS, of_classes
from trainsanity.objectives.preference_formulas import (
    UNPAIRED,
    Scores,
    Settings,
    loss_of,
    mistakes,
    settings_of,
)

if TYPE_CHECKING:
    from torch import Tensor

POINTS = 2
"""Places at which the loss is asked: a wrong formula that has the right value at one by chance has
it not at another."""

START = 1.0 / 64
"""First size of the change, relative to each tensor. It is only where the search begins."""

VISIBLE, FAR = 0.1, 3.0
"""Range of beta times an answer's log-ratio, as a root mean square, at which formulas are told
apart: a sigmoid is neither flat nor, in a tenth, the straight line through its middle."""

TRIES = 6
"""Sizes that are tried, each a factor of 3 or 4 from the last: three orders of magnitude."""


@dataclass(frozen=True)
class Point:
    """The user's loss and the formula at one place.

    Attributes:
        loss, expected: both values.
        allowed: what rounding explains of their difference.
        turned: norm of the difference of both gradients, relative to the formula's.
        turn_allowed: what rounding explains of it.
        slope: the user's gradient along the formula's, over the formula's.
        beta: the beta at which the formula has the user's value and gradient; NaN if none.
        mistakes: known wrong formulas that have both.
    """

    loss: float
    expected: float
    allowed: float
    turned: float
    turn_allowed: float
    slope: float
    beta: float = math.nan
    mistakes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Return whether rounding explains the difference in value and in gradient."""
        return within(abs(self.loss - self.expected), self.allowed) and within(
            self.turned, self.turn_allowed
        )


@dataclass
class Preference:
    """A preference loss where policy and reference differ.

    Attributes:
        settings: as the Trainer's arguments give them.
        points: at each place that was asked.
        answers: how many answers were compared.
        reason: why nothing was asked; empty if it was.
    """

    settings: Settings | None = None
    points: list[Point] = field(default_factory=list)
    answers: int = 0
    reason: str = "no Trainer of TRL's that compares answers"


def ask_preference(
    trainer: Any, inputs: Any, rows: Sequence[Mapping[str, Any]] | None
) -> Preference:
    """Ask the loss of a prepared micro-batch at weights a little beside the policy's.

    Args:
        trainer: the user's, in the middle of its first step.
        inputs: what ``compute_loss`` was given.
        rows: what the collator made them from; None if that was not seen.
    """
    found = Preference()
    if not of_classes(trainer, PREFERENCE_TRAINERS):
        return found
    found.settings, found.reason = settings_of(trainer)
    if found.settings is None:
        return found
    if trainer.args.world_size > 1:
        found.reason = "asked of one process alone"
        return found
    answers, found.reason = answers_of(trainer, inputs, rows)
    if answers is None:
        return found
    parameters = [p for p in inner(trainer.model).parameters() if p.requires_grad]
    kept = to_host(parameters)
    size = START
    try:
        for seed in range(POINTS):
            for _ in range(TRIES if not seed else 1):
                with _moved(parameters, kept, seed, size):
                    spread, point = _asked(trainer, inputs, answers, found)
                if seed or point is None or not answers.has_reference:
                    break
                if VISIBLE <= spread <= FAR:
                    break
                size = size * 4 if spread < VISIBLE else size / 3
            if point is None:
                return found
            found.points.append(point)
    except Exception as error:
        found.points.clear()
        found.reason = f"asked again it raised {type(error).__name__}: {first_line(error)}"
    return found


@contextlib.contextmanager
def _moved(parameters: list[Any], kept: Any, seed: int, size: float) -> Iterator[None]:
    """Change weights at random by a share of each tensor's size, and put them back."""
    import torch

    try:
        with torch.no_grad():
            sizes = [float(p.detach().float().square().mean().sqrt()) for p in parameters]
            # A tensor of zeros, as LoRA's second factor, is moved like the others.
            usual = sorted(one for one in sizes if one > 0)
            middle = usual[len(usual) // 2] if usual else 1.0
            for k, (p, own) in enumerate(zip(parameters, sizes, strict=True)):
                random = torch.Generator(device=p.device).manual_seed(1_000_003 * seed + k)
                noise = torch.randn(p.shape, generator=random, device=p.device)
                p.add_((size * (own or middle) * noise).to(p.dtype))
        yield
    finally:
        with torch.no_grad():
            to_device(kept, parameters)


def _asked(
    trainer: Any, inputs: Any, answers: Answers, found: Preference
) -> tuple[float, Point | None]:
    """Return the spread of log-ratios times beta, and what was asked there."""
    import torch

    settings = found.settings
    assert settings is not None
    with (
        restored([trainer, trainer.state, trainer.control]),
        torch.enable_grad(),
        passes_seen(live=True) as seen,
        trainer.compute_loss_context_manager(),
    ):
        loss = trainer.compute_loss(trainer.model_wrapped, dict(inputs))
    loss = loss[0] if isinstance(loss, tuple) else loss
    scores, whole, main, found.reason = answers.scores(inner(trainer.model), seen, inputs)
    if scores is None or main is None:
        return math.nan, None
    found.answers = len(scores.policy)
    gains = (scores.policy - scores.reference).detach()
    spread = settings.beta * float(gains.square().mean().sqrt())
    return spread, _compared(loss, main, settings, scores, whole)


def _compared(
    loss: Tensor, main: Pass, settings: Settings, scores: Scores, whole: Scores | None
) -> Point:
    import torch

    (mine,) = torch.autograd.grad(loss, main.root, retain_graph=True, allow_unused=True)
    mine = torch.zeros_like(main.root) if mine is None else mine
    # TRL's fused head returns log-probabilities, constants of 0 where nothing is counted: what is
    # summed there is worth nothing, whatever its gradient.
    real = main.root != 0 if main.root.dim() == 2 else torch.ones((), device=main.root.device)
    paired = settings.kinds[0][0] not in UNPAIRED
    mine = _folded(mine.double() * real, main.ids, paired=paired)
    value = float(loss.detach())
    # The dtype in which the sums are taken that the user's code sees.
    eps = float(torch.finfo(main.root.dtype).eps)

    def hold(settings: Settings, scores: Scores) -> Point:
        formula = loss_of(settings, scores)
        asked = scores.policy
        (pull,) = torch.autograd.grad(formula, asked, retain_graph=True, allow_unused=True)
        (right,) = torch.autograd.grad(formula, main.root, retain_graph=True)
        right = _folded(right.double() * real, main.ids, paired=paired)
        expected = float(formula.detach())
        unit = MARGIN * eps + REDUCTIONS
        sums = asked.detach().abs() + scores.reference.detach().abs()
        shift = 0.0 if pull is None else float((pull.abs() * sums).sum())
        norm = float(right.norm())
        turned = float((mine - right).norm()) / norm if norm else math.inf
        slope = float((mine * right).sum()) / norm**2 if norm else math.nan
        # A weight of the gradient is a function of beta times a sum: it is off by as much.
        return Point(
            value,
            expected,
            unit * (max(1.0, abs(expected)) + shift),
            turned,
            unit * (1 + settings.beta * float(sums.max())) * MARGIN,
            slope,
        )

    point = hold(settings, scores)
    if point.agrees:
        return point
    named = []
    for name, other, these in mistakes(settings, scores, whole):
        tried = hold(other, these)
        if tried.agrees:
            named.append(name)
    beta = _beta(settings, scores, value)
    if not (beta and hold(replace(settings, beta=beta), scores).agrees):
        beta = math.nan
    return replace(point, beta=beta, mistakes=tuple(named))


def _folded(gradient: Tensor, ids: Tensor, *, paired: bool) -> Tensor:
    """Add up what a pair's rows have on the tokens that both begin with.

    The model says the same there in both rows, so that only the sum reaches its weights.
    """
    import torch

    if not paired:
        return gradient
    half = len(ids) // 2
    shared = (ids[:half] == ids[half:]).long().cumprod(1)
    if gradient.dim() == 2:  # a log-probability belongs to its prefix and the token after it
        shared = shared[:, 1:]
    gradient = gradient[:, -shared.shape[1] :]
    shared = shared.to(gradient)
    if gradient.dim() == 3:
        shared = shared[..., None]
    first, second = gradient[:half], gradient[half:]
    return torch.cat([first + shared * second, (1 - shared) * second])


def _beta(settings: Settings, scores: Scores, value: float) -> float:
    """Return the beta at which the formula has a value, by bisection; 0 if there is none.

    The loss of a pair is no monotone function of beta over all pairs, so every crossing of a grid
    is followed and the one nearest to the set beta is returned.
    """
    import torch

    with torch.no_grad():

        def off(power: float) -> float:
            beta = settings.beta * 10.0**power
            return float(loss_of(replace(settings, beta=beta), scores)) - value

        # From a thousandth to a thousand times the beta that is set, ten to a factor of 10.
        grid = [k / 10 for k in range(-30, 31)]
        values = [off(power) for power in grid]
        crossings = []
        for k in range(len(grid) - 1):
            low, high = grid[k], grid[k + 1]
            if not values[k] * values[k + 1] <= 0 or (low <= 0.0 <= high and values[30] == 0):
                continue
            for _ in range(50):
                middle = (low + high) / 2
                low, high = (low, middle) if values[k] * off(middle) <= 0 else (middle, high)
            crossings.append((low + high) / 2)
    nearest = min(crossings, key=abs, default=None)
    return 0.0 if nearest is None else settings.beta * 10.0**nearest
