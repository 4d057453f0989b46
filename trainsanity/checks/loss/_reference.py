"""Helpers that the checks of a reference policy share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.maths.tolerances import MARGIN, REDUCTIONS

if TYPE_CHECKING:
    from trainsanity.measurements.step.passes import Gap
    from trainsanity.measurements.step.policy_passes import Policy
    from trainsanity.pipeline import Pipeline


def allowed_gap(pipeline: Pipeline, policy: Policy, gap: Gap) -> float:
    """Return how far apart log-probabilities of equal weights may lie, as a root mean square."""
    import torch

    eps = policy.eps
    if policy.reference is not None:
        dtypes = {p.dtype for p in policy.reference.parameters() if p.is_floating_point()}
        eps = max(eps, *(float(torch.finfo(dtype).eps) for dtype in dtypes))
    if pipeline.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        eps = max(eps, 2.0**-10)
    # A token that is nearly certain has a log-probability near 0 and logits of a usual size.
    return (MARGIN * eps + REDUCTIONS) * max(1.0, gap.scale)


def dropouts(pipeline: Pipeline) -> list[str]:
    """Return in words where dropout is on while the model trains."""
    import torch

    rates = {
        module.p
        for module in pipeline.model.modules()
        if isinstance(module, torch.nn.modules.dropout._DropoutNd) and module.p > 0
    }
    config: Any = pipeline.config
    named = getattr(config, "attention_dropout", 0.0)
    if (
        isinstance(named, float)
        and named > 0
        and not getattr(pipeline.args, "disable_dropout", False)
    ):
        rates.add(named)
    return [f"dropout of {max(rates):g}"] if rates else []


def neftune(pipeline: Pipeline) -> list[str]:
    """Return in words whether NEFTune adds noise to the embeddings."""
    alpha = getattr(pipeline.args, "neftune_noise_alpha", None)
    return [f"NEFTune's noise on the embeddings (neftune_noise_alpha={alpha:g})"] if alpha else []
