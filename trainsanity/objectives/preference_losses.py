"""TRL's preference losses where policy and reference are the same."""

from __future__ import annotations

import math
from typing import Any

from trainsanity.objectives.preference import of_classes

LOG2 = math.log(2.0)


def fixed_point(trainer: Any) -> float | None:
    """Return the loss at implicit rewards of 0; None where it depends on more than the settings."""
    args = getattr(trainer, "args", None)
    if args is None or getattr(trainer, "aux_loss_enabled", False):
        return None
    kinds = getattr(trainer, "loss_types", None) or getattr(args, "loss_type", None)
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or ())
    beta = float(getattr(args, "beta", 0.0) or 0.0)
    if of_classes(trainer, ("DPOTrainer",)):
        if getattr(args, "use_weighting", False) or not beta or not kinds:
            return None
        weights = getattr(trainer, "loss_weights", None) or [1.0] * len(kinds)
        smoothing = float(getattr(args, "label_smoothing", 0.0) or 0.0)
        parts = [_dpo(kind, beta, smoothing) for kind in kinds]
        if len(weights) != len(parts) or any(part is None for part in parts):
            return None
        return float(sum(w * (part or 0.0) for w, part in zip(weights, parts, strict=True)))
    if of_classes(trainer, ("KTOTrainer",)) and kinds in (["kto"], ["apo_zero_unpaired"]):
        weights = [getattr(args, f"{side}_weight", 1.0) for side in ("desirable", "undesirable")]
        return 0.5 if weights == [1.0, 1.0] else None
    return None


def _dpo(kind: str, beta: float, smoothing: float) -> float | None:
    """Return one of DPO's losses at log-ratios of 0; None where it depends on the policy."""
    if kind == "exo_pair":
        if not 0 < smoothing < 1:
            return None
        half = 0.5 * (-LOG2 - math.log1p(-smoothing))
        return half + 0.5 * (-LOG2 - math.log(smoothing))
    return {
        "sigmoid": LOG2,
        "sigmoid_norm": LOG2,
        "robust": LOG2,
        "aot": LOG2,
        "aot_unpaired": LOG2,
        "hinge": 1.0,
        "apo_zero": 1.0,
        "apo_down": 1.0,
        "nca_pair": 2 * LOG2,
        "bco_pair": 2 * LOG2,
        "ipo": (1 / (2 * beta)) ** 2,
        "sppo_hard": 2 * (0.5 / beta) ** 2,
        "discopop": 0.5 * LOG2 + 0.5,
    }.get(kind)
