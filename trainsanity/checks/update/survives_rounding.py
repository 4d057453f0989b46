"""TS702 update.survives_rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Skip

HALF = 0.5
"""Share of the elements with a gradient that must move at the peak rate.  A definition and no
measurement: an element keeps its update or loses all of it, and below a half more of them lose it
than keep it.  What is seen lies far on both sides (float32 0.99 and more, bfloat16 weights at 1e-5
0.11 to 0.15 on an H100), so that no verdict there hangs on it."""


FINEST = ("float32", "float64")
"""Dtypes of weights for which no finer one is used in training."""


@check(
    "TS702",
    "update.survives_rounding",
    cost=Cost.STEP,
    requires=("update.optimizer_holds_trainable", "gradient.finite"),
    follows=("model.parameters_are_initialised",),
    rules_out="precision",
)
def survives_rounding(recording: Recording) -> Iterator[Measured | Finding]:
    """Updates at the peak learning rate survive the rounding of the weights.

    What it checks: of the elements with a gradient, the share that moves in a step at the peak
    rate.

    Why it matters: a weight moves only if the update is at least half a unit in its last place.
    Weights in bfloat16 have 8 significant bits: at a rate of 1e-5 almost every update of AdamW is
    rounded away, and a warm-up below the peak moves next to nothing.  The loss looks like a model
    that learns slowly.

    How it is measured: during the recorded step the user's own optimizer steps once more with the
    same gradients at the peak rate of the run, elements are compared, and the step is taken back;
    the same in the middle of the warm-up as it is configured.  Beside it stands what the dtype
    alone predicts: the share whose half unit in the last place is at most the rate, the size of
    AdamW's first updates.  Less than half at the peak is a failure; see HALF for the bound's
    origin.

    How to fix: keep the trainable weights in float32, ``from_pretrained(..., dtype=torch.float32)``
    with ``bf16=True`` in the arguments (transformers 5 loads the checkpoint's dtype by default).

    Known false alarms: optimizers that keep float32 master weights of their own, or round at
    random, move fewer elements per step and lose nothing on average.

    References: huggingface/transformers#42805, huggingface/trl#4770, pytorch/torchtune#2254.
    """
    update = recording.update
    if not update.trials:
        raise Skip(update.no_trial)
    touched = sum(p.with_gradient for p in update.parameters)
    if not touched:
        raise Skip("no element has a gradient, so none could move")
    *earlier, peak = update.trials
    share = peak.moved()
    shares = {
        dtype: {"moved": round(row[1] / row[0], 4), "predicted": round(row[2] / row[0], 4)}
        for dtype, row in peak.shares.items()
        if row[0]
    }
    # Of one dtype the sentence before says how many move.
    one = len(shares) == 1
    parts = "; ".join(
        f"{dtype} alone predicts {row['predicted']:.2%}"
        if one
        else f"{dtype}: {row['moved']:.2%} (predicted {row['predicted']:.2%})"
        for dtype, row in shares.items()
    )
    for trial in earlier:
        parts += f"; in the middle of the warm-up, at {trial.rate:.3g}, {trial.moved():.2%}"
    rates = [update.rate, *(trial.rate for trial in update.trials)]
    if not (share >= HALF and all(map(math.isfinite, rates))):
        coarse = min(shares, key=lambda dtype: shares[dtype]["moved"], default="none")
        cause, fix = _explain(shares, coarse, update.rate)
        yield Finding(
            f"a step at the peak learning rate {update.rate:g} changes {share:.2%} of the "
            f"{touched:,} elements with a gradient ({parts})",
            observed=shares,
            expected=f"at least {HALF:.0%}",
            where=f"trainable weights in {coarse}",
            cause=cause,
            fix=fix,
        )
    yield Measured(
        f"at {update.rate:g} {share:.2%} of the elements with a gradient move ({parts})",
        shares,
        f"at least {HALF:.0%}",
    )


def _explain(shares: dict[str, dict[str, float]], coarse: str, rate: float) -> tuple[str, str]:
    """Return cause and fix, by whether the dtype alone predicts that elements stay."""
    if rate == 0:
        return "the learning rate is 0", "give a learning rate above 0"
    if coarse in shares and shares[coarse]["predicted"] >= HALF:
        return (
            f"the {coarse} weights would let {shares[coarse]['predicted']:.0%} of them move: the "
            "optimizer's updates are smaller than the rate, or something undoes them",
            "look at the optimizer's groups, their rates, and hooks on its step",
        )
    if coarse in FINEST:
        return (
            f"the rate is less than half a unit in the last place of most {coarse} weights",
            "raise the learning rate",
        )
    return (
        f"the update is less than half a unit in the last place of most {coarse} weights",
        "load the model with dtype=torch.float32 and train with bf16=True",
    )
