"""TS711 update.moments_are_usable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 0.9
"""Share of the gradient's elements below epsilon from which on Adam is no Adam any more. Chosen:
with the usual 1e-8 the share is next to 0, and with 0.1 next to 1."""


@check("TS711", "update.moments_are_usable", cost=Cost.STEP, rules_out="Adam's own settings")
def moments_are_usable(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Adam's epsilon is below the gradients, and beta2 above beta1.

    What it checks: ``eps`` of an optimizer with ``betas`` against the elements of the first step's
    gradient, and ``beta1`` against ``beta2``.

    Why it matters: where epsilon is above the gradients the step is ``lr * m / eps``: a hundredth
    of the rate that was asked for, and no element is scaled any more. Betas that are written as
    ``1 - beta`` average the squares over a single step, and every step is a sign.

    How it is measured: the share of the sampled elements, those that are 0 left out, whose absolute
    value is below epsilon; after one step the root of the second mean is that value. Above 90 % it
    is a warning, since larger values are used on purpose, with a larger rate. So is
    ``beta2 < beta1``: the mean of the squares would follow the gradient faster than its own mean.

    How to fix: ``eps=1e-8`` and ``betas=(0.9, 0.999)``, or a value between::

        # bad
        AdamW(parameters, eps=0.1, betas=(0.1, 0.001))
        # good
        AdamW(parameters, eps=1e-8, betas=(0.9, 0.999))

    Known false alarms: both are used on purpose now and then, hence warnings.

    References: mlpnlp/mlpnlp-nmt#4, mila-iqia/blocks#1159.
    """
    group = _group(pipeline)
    if group is None:
        raise Skip("the optimizer has no betas")
    import torch

    eps, (first, second) = float(group["eps"]), (float(one) for one in group["betas"][:2])
    values = [g.abs().float() for g in recording.gradients.values()]
    sampled = torch.cat(values) if values else torch.zeros(0)
    if not bool(sampled.isfinite().all()):
        raise Skip("the gradient is not finite: gradient.finite judges that")
    sampled = sampled[sampled > 0]
    share = float((sampled < eps).float().mean()) if len(sampled) else 0.0
    if share > MOST:
        middle = float(sampled.median())
        yield Finding(
            f"{share:.0%} of the gradient's elements are below epsilon {eps:g}: a step is about "
            f"{middle / (middle + eps):.2g} of the learning rate",
            observed=share,
            where=f"eps = {eps:g}",
            cause="epsilon is larger than the gradients",
            fix="eps=1e-8, or a learning rate that is as much larger",
            severity=Severity.WARNING,
        )
    if second < first:
        yield Finding(
            f"betas are {first:g} and {second:g}: the squares are averaged over "
            f"{1 / (1 - second):.3g} steps, the gradients over {1 / (1 - first):.3g}",
            observed=[first, second],
            where="betas",
            cause="betas written as 1 - beta, or exchanged",
            fix="betas=(0.9, 0.999)",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{share:.2%} of {len(sampled):,} elements of the gradient are below epsilon {eps:g}; "
        f"betas are {first:g} and {second:g}",
        {"share": share, "betas": [first, second]},
    )


def _group(pipeline: Pipeline) -> dict[str, Any] | None:
    """Return the settings of an optimizer with betas: the user's, or what the arguments ask for."""
    trainer = pipeline.trainer
    optimizer = pipeline.optimizer if trainer is None else trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    groups = getattr(optimizer, "param_groups", None)
    if groups:
        group: dict[str, Any] = groups[0]
        return group if {"betas", "eps"} <= set(group) else None
    args = pipeline.args
    if "adam" not in str(getattr(args, "optim", "")).lower():
        return None
    return {"eps": args.adam_epsilon, "betas": (args.adam_beta1, args.adam_beta2)}
