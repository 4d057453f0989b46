"""TS607 gradient.checkpointing_is_exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, Difference, worst
from trainsanity.measurements.step.replay import Replay
from trainsanity.types import Cost, Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SWITCH = "gradient_checkpointing_enable"
"""Method by which the Trainer turns it on."""


@check(
    "TS607",
    "gradient.checkpointing_is_exact",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "gradient.finite"),
    rules_out="gradient checkpointing",
)
def checkpointing_is_exact(pipeline: Pipeline, replay: Replay) -> Iterator[Measured | Finding]:
    """Gradient checkpointing does not change gradients.

    What it checks: the gradients of the first micro-batch with checkpointing as the run has it, and
    without.

    Why it matters: activations that are computed again with other random numbers, another cache or
    another mode give the gradient of another function, and the loss does not show it.

    How it is measured: the same micro-batch, weights and random numbers, on and off, on the sample
    of gradients.matches_autograd.  Allowed is four times the measured rounding.

    How to fix: keep ``preserve_rng_state=True``; make what the checkpointed part reads constant
    between the two passes (no counters, no caches); prefer ``use_reentrant=False``.

    Known false alarms: modules that draw random numbers elsewhere than in torch.

    References: torch.utils.checkpoint; huggingface/transformers#42489, #21381.
    """
    if replay.checkpointing is None and not hasattr(pipeline.model, SWITCH):
        raise Skip("the model has no gradient checkpointing")
    compared = {
        name: Difference(by, MARGIN * replay.noise[name] + REDUCTIONS, "of the norm")
        for name, by in (replay.checkpointing or {}).items()
    }
    bad = [name for name, by in compared.items() if not by.explained]
    most = worst(compared.values()) or Difference(0.0, REDUCTIONS, "of the norm")
    if bad:
        yield Finding(
            f"gradient checkpointing changes {len(bad)} of {len(compared)} gradients: {most}",
            observed=most.greatest,
            expected=f"at most {most.allowed:.3g}",
            where=", ".join(bad[:3]),
            cause="what is computed again in the backward pass is not what the forward computed: "
            "other random numbers, another cache or another mode",
            fix="gradient_checkpointing_kwargs={'use_reentrant': False}, and leave "
            "preserve_rng_state as it is",
        )
    yield Measured(
        f"{len(compared)} gradients with checkpointing on and off: {most}",
        most.greatest,
        most.allowed,
    )
