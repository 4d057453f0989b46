"""TS607 gradient.checkpointing_is_exact."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, largest, within
from trainsanity.measurements.step.replay import Replay
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    pass


@check(
    "TS607",
    "gradient.checkpointing_is_exact",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "gradient.finite"),
    rules_out="gradient checkpointing",
)
def checkpointing_is_exact(replay: Replay) -> Iterator[Measured | Finding]:
    """Gradient checkpointing changes nothing but memory and time.

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
    if replay.checkpointing is None:
        yield Measured("0 modules compute their activations again", 0, 0)
        return
    bad = [
        name
        for name, difference in replay.checkpointing.items()
        if not within(difference, MARGIN * replay.noise[name] + REDUCTIONS)
    ]
    worst = largest(replay.checkpointing.values())
    if bad:
        yield Finding(
            f"gradient checkpointing changes {len(bad)} of {len(replay.checkpointing)} gradients, "
            f"by up to {worst:.2%} of their norm",
            observed=worst,
            expected=0,
            where=", ".join(bad[:3]),
            cause="what is computed again in the backward pass is not what the forward computed",
            fix="gradient_checkpointing_kwargs={'use_reentrant': False}, and leave "
            "preserve_rng_state as it is",
        )
    yield Measured(
        f"{len(replay.checkpointing)} gradients are the same with checkpointing and without "
        f"(largest difference {worst:.2g})",
        worst,
        0,
    )
