"""The documented formulas of preference losses, as functions of log-probabilities of answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.preference import of_classes

if TYPE_CHECKING:
    from torch import Tensor

PAIRED = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard"),
    *("aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
UNPAIRED = ("kto", "apo_zero_unpaired")
ODDS = "orpo"


@dataclass(frozen=True)
class Settings:
    """The settings of a preference Trainer.

    Attributes:
        kinds: the ``loss_type``s, each with its weight.
        beta: strength of the penalty, or ORPO's weight of the odds ratio.
        smoothing: ``label_smoothing``.
        tau: temperature of DiscoPOP's mixture.
        sides: weights of liked and disliked answers.
    """

    kinds: tuple[tuple[str, float], ...]
    beta: float
    smoothing: float = 0.0
    tau: float = 0.05
    sides: tuple[float, float] = (1.0, 1.0)

    @property
    def words(self) -> str:
        """The settings in words."""
        kinds = ", ".join(kind for kind, _ in self.kinds)
        return f"{kinds} with beta {self.beta:g}"


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of whole answers; chosen answers before rejected ones, where in pairs.

    Attributes:
        policy: sum over each answer's tokens, ``[B]``, with a gradient.
        reference: the same of the reference; zeros where the objective has none.
        counts: tokens of each answer.
        liked: whether each answer is the better one of its pair, or was liked.
        divergence: KTO's estimate of the divergence from the reference, before it is clamped at 0.
        likelihood: mean negative log-probability that the objective adds: over the tokens of chosen
            answers, for ORPO with their prompts.
    """

    policy: Tensor
    reference: Tensor
    counts: Tensor
    liked: Tensor
    divergence: Tensor
    likelihood: Tensor


def settings_of(trainer: Any) -> tuple[Settings | None, str]:
    """Return the settings of a Trainer whose formula is known; None and why for another."""
    args = trainer.args
    beta = float(getattr(args, "beta", 0.0) or 0.0)
    if getattr(trainer, "aux_loss_enabled", False):
        return None, "a router's auxiliary loss is added"
    if of_classes(trainer, ("ORPOTrainer",)):
        return Settings(((ODDS, 1.0),), beta), ""
    kinds = getattr(trainer, "loss_types", None) or getattr(args, "loss_type", None)
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    known: tuple[str, ...] = ()
    if of_classes(trainer, ("DPOTrainer",)):
        known = PAIRED
    elif of_classes(trainer, ("KTOTrainer",)):
        known = UNPAIRED
    unknown = [str(kind) for kind in kinds if kind not in known]
    if not kinds or unknown:
        named = f"loss_type {', '.join(unknown)}" if unknown else type(trainer).__name__
        return None, f"no formula for {named}"
    if not beta:
        return None, "beta is 0"
    for name, plain in (
        ("ld_alpha", (None,)),
        ("use_weighting", (None, False)),
        ("f_divergence_type", (None, "reverse_kl")),
    ):
        value = getattr(args, name, None)
        if getattr(value, "value", value) not in plain:
            return None, f"{name}={getattr(value, 'value', value)} changes the formula"
    weights = getattr(trainer, "loss_weights", None) or [1.0] * len(kinds)
    return Settings(
        tuple((str(kind), float(weight)) for kind, weight in zip(kinds, weights, strict=True)),
        beta,
        float(getattr(args, "label_smoothing", 0.0) or 0.0),
        float(getattr(args, "discopop_tau", 0.05) or 0.05),
        (
            float(getattr(args, "desirable_weight", 1.0)),
            float(getattr(args, "undesirable_weight", 1.0)),
        ),
    ), ""


def loss_of(settings: Settings, scores: Scores) -> Tensor:
    """Return the loss that the settings describe."""
    total = scores.policy.new_zeros(())
    for kind, weight in settings.kinds:
        if kind in UNPAIRED:
            part = _unpaired(kind, settings, scores)
        elif kind == ODDS:
            part = _odds(settings, scores)
        elif kind == "sft":
            part = scores.likelihood
        else:
            part = _paired(kind, settings, scores).mean()
        total = total + weight * part
    return total


def _paired(kind: str, settings: Settings, scores: Scores) -> Tensor:
    """Return a loss for each pair; a margin is how much more the chosen answer has gained."""
    import torch
    from torch.nn.functional import logsigmoid

    beta, eps = settings.beta, settings.smoothing
    gains = scores.policy - scores.reference
    chosen, rejected = gains[scores.liked], gains[~scores.liked]
    margin = beta * (chosen - rejected)
    each = gains / scores.counts.clamp(min=1)
    each_margin = each[scores.liked] - each[~scores.liked]

    def entropy_to_labels() -> Tensor:
        up, down = logsigmoid(margin), logsigmoid(-margin)
        return up.exp() * (up - math.log1p(-eps)) + down.exp() * (down - math.log(eps))

    def discovered() -> Tensor:
        share = torch.sigmoid(margin / settings.tau)
        return -(1 - share) * logsigmoid(margin) + share * torch.exp(-margin)

    def transported(more: Tensor, less: Tensor) -> Tensor:
        # Optimal transport in one dimension: sorted values are compared.
        moved = beta * (more.sort().values - less.sort().values)
        return -(1 - eps) * logsigmoid(moved) - eps * logsigmoid(-moved)

    def of_pairs(values: Tensor) -> Tensor:
        return values[scores.liked] - values[~scores.liked]

    forms: dict[str, Callable[[], Tensor]] = {
        "sigmoid": lambda: -logsigmoid(margin),
        "sigmoid_norm": lambda: -logsigmoid(beta * each_margin),
        "hinge": lambda: (1 - margin).clamp(min=0),
        "ipo": lambda: (each_margin - 0.5 / beta) ** 2,
        "robust": lambda: (
            (eps * logsigmoid(-margin) - (1 - eps) * logsigmoid(margin)) / (1 - 2 * eps)
        ),
        "exo_pair": entropy_to_labels,
        "nca_pair": lambda: (
            -logsigmoid(beta * chosen)
            - 0.5 * (logsigmoid(-beta * chosen) + logsigmoid(-beta * rejected))
        ),
        "bco_pair": lambda: -logsigmoid(beta * chosen) - logsigmoid(-beta * rejected),
        "sppo_hard": lambda: (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2,
        "apo_zero": lambda: torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected),
        "apo_down": lambda: torch.sigmoid(beta * chosen) + torch.sigmoid(-margin),
        "discopop": discovered,
        "aot": lambda: transported(of_pairs(scores.policy), of_pairs(scores.reference)),
        "aot_unpaired": lambda: transported(chosen, rejected),
    }
    return forms[kind]()


def _unpaired(kind: str, settings: Settings, scores: Scores) -> Tensor:
    import torch

    gains = scores.policy - scores.reference
    if kind == "kto":
        gains = gains - scores.divergence.clamp(min=0)
    signs = torch.where(scores.liked, 1.0, -1.0).to(gains)
    weights = torch.where(scores.liked, *settings.sides).to(gains)
    return (weights * torch.sigmoid(-settings.beta * signs * gains)).mean()


def _odds(settings: Settings, scores: Scores) -> Tensor:
    """Return the likelihood of chosen answers and the log of the odds ratio, per token."""
    import torch
    from torch.nn.functional import logsigmoid

    each = scores.policy / scores.counts.clamp(min=1)
    odds = each - torch.log(-torch.expm1(each))
    ratio = logsigmoid(odds[scores.liked] - odds[~scores.liked])
    return scores.likelihood - settings.beta * ratio.mean()


PROMPT = "the prompt's tokens are counted in the log-probability of the answer"
EXCHANGED = "chosen and rejected answers are exchanged"
NO_REFERENCE = "the reference's log-probabilities are not subtracted"
SMOOTHED = "label_smoothing is not applied"
PER_TOKEN = "log-probabilities are averaged over an answer's tokens where the formula sums them"
SUMMED = "log-probabilities are summed over an answer's tokens where the formula averages them"


def mistakes(
    settings: Settings, scores: Scores, whole: Scores | None
) -> Iterator[tuple[str, Settings, Scores]]:
    """Yield the known wrong formulas of a preference loss, each with its name.

    Args:
        settings: of the Trainer.
        scores: of the answers.
        whole: the same with the prompts' tokens counted; None if that was not to be seen.
    """
    if whole is not None:
        yield PROMPT, settings, whole
    yield EXCHANGED, settings, replace(scores, liked=~scores.liked)
    yield NO_REFERENCE, settings, replace(scores, reference=0 * scores.reference)
    if settings.smoothing and all(kind != "exo_pair" for kind, _ in settings.kinds):
        yield SMOOTHED, replace(settings, smoothing=0.0), scores
    counts = scores.counts.clamp(min=1)
    mean = replace(
        scores,
        policy=scores.policy / counts,
        reference=scores.reference / counts,
    )
    averaging = {"ipo", "sigmoid_norm", ODDS}
    kinds = {kind for kind, _ in settings.kinds}
    if not kinds & averaging:
        yield PER_TOKEN, settings, mean
    if kinds <= averaging:
        yield SUMMED, settings, replace(scores, counts=0 * scores.counts + 1)
