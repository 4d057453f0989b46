"""TS606 gradient.matches_autograd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.gradient._scale import STALE, loss_is_the_reference
from trainsanity.engine.registry import check
from trainsanity.isolation.overrides import hooked
from trainsanity.maths.factors import explained, name_factor
from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, Difference, within, worst
from trainsanity.measurements.model.head import is_tied
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.replay import Replay
from trainsanity.measurements.step.sampling import SAMPLE
from trainsanity.measurements.step.steps import Recording
from trainsanity.measurements.step.told_apart import told_apart_by_gradient
from trainsanity.types import Blocked, Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

COMPOSED = (
    "the loop runs the model more than once for a micro-batch, as adversarial training and "
    "sharpness-aware steps do: its gradient is made of more than the loss's"
)

CHECKPOINTED = "_checkpoint_wrapped_module."
"""What torch's wrapper for activation checkpointing, which FSDP2 has for it, adds to names."""

TERMS = (
    "{} has the formula's value, and the step adds up what it gives: it has a term whose value is "
    "next to 0 and whose gradient is not, as a consistency of two passes has at first, or a hook "
    "changes the gradient in every micro-batch alike"
)


@check(
    "TS606",
    "gradient.matches_autograd",
    cost=Cost.STEP,
    requires=(
        "dataset.labels_in_range",
        "gradient.finite",
        "gradient.reaches_every_parameter",
        "gradient.checkpointing_is_exact",
    ),
    explained_by=("loss.matches_reference", "gradient.head_closed_form"),
    follows=("loop.trains_in_train_mode", "gradient.starts_from_zero"),
    rules_out="gradient accumulation",
    judges=Judges.GRADIENT,
)
def matches_autograd(
    pipeline: Pipeline, recording: Recording, replay: Replay, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The accumulated gradients equal those of the whole step as one batch.

    What it checks: the gradient that the first optimizer step accumulated on each trainable
    parameter, before clipping, against that of the mean loss over all items of the step.

    Why it matters: k micro-batches have to add up to one batch.  What is lost, zeroed, counted
    twice or added on the way changes the direction of training and leaves the logged loss as it is.

    How it is measured: the step's rows are run once more, with the same weights, the same random
    numbers (dropout included) and without gradient checkpointing; the reference loss is
    differentiated for each micro-batch and added up in float64, which by linearity is the gradient
    of one large batch.  Compared are at most 65,536 elements of each parameter, spread evenly;
    the head is left to gradient.head_closed_form unless it is tied to the embedding.  Allowed is
    four times the rounding that the reference itself shows when its loss is computed in the logits'
    dtype and at another scale, and its parts are added in the gradient's dtype; of a fused loss,
    which shows no logits, half a unit in their last place more, and what adding the head's gradient
    up chunk by chunk rounds.  Where that is as large as the gradient itself, it is rounding alone:
    a bias of attention's keys, for one, moves no output.

    How to fix: one common slope is a matter of the loss's scale (see TS502).  Otherwise look for
    what writes to .grad of the named parameters: a hook, a zero_grad inside the accumulation loop,
    a penalty that is sent backward by itself.

    Known false alarms: auxiliary losses (of experts, of a regulariser inside compute_loss) are part
    of the gradient by design.  Of a custom training loop that runs the model more than once for a
    micro-batch (sharpness-aware steps, adversarial training) another direction is a warning, which
    objective = "custom" ends.  So is a gradient that your own compute_loss gives again for each
    micro-batch, where the step is exactly their mean: nothing was lost on the way.  So is one that
    a hook of your own sets to 0 in some elements, as for the old rows of a vocabulary that grew.

    References: huggingface/transformers#37766, #47688; huggingface/trl#4104.
    """
    confirmed.require()
    if recording.not_comparable:
        raise Skip(recording.not_comparable)
    if recording.first.left:
        raise Blocked(STALE, by="gradient.starts_from_zero")
    recorded = {name.replace(CHECKPOINTED, ""): one for name, one in recording.gradients.items()}
    names = [name for name in replay.gradients if name in recorded]
    if recording.head_name and not is_tied(pipeline, recording.head_name):
        names = [name for name in names if name != f"{recording.head_name}.weight"]
    if not names:
        raise Skip("no parameter below the head is trained")
    observed = {name: recorded[name].double() for name in names}
    bad: list[str] = []
    held: list[str] = []
    compared, noisy = [], 0
    for name in names:
        exact = replay.gradients[name]
        size, off = float(exact.norm()), float((observed[name] - exact).norm())
        share = MARGIN * replay.noise[name] + replay.common + REDUCTIONS
        if not within(off, share * size):
            masked = hooked(pipeline, name) and _in_part(observed[name], exact, share)
            (held if masked else bad).append(name)
        # Where its whole norm is allowed, as for the bias of keys, whose gradient is 0 but for
        # rounding, the difference shows nothing.
        if share >= 1:
            noisy += 1
        else:
            compared.append(Difference(off / size if size else off, share, "of the norm"))
    most = worst(compared) or Difference(0.0, REDUCTIONS, "of the norm")
    if held:
        yield Finding(
            f"{len(held)} of {len(names)} gradients are 0 in a part of their elements, and as "
            "computed in the others",
            observed=len(held),
            expected=0,
            where=", ".join(held[:3]),
            cause="a hook of your own on these parameters holds some of their elements",
            fix="nothing, if these are meant to stay as they are",
            severity=Severity.WARNING,
        )
    if bad:
        import torch

        slope, cosine = regress(
            torch.cat([observed[name] for name in bad]),
            torch.cat([replay.gradients[name] for name in bad]),
        )
        # A factor of the run's is common to all parameters; of one alone it would be chance.
        common = len(bad) >= len(compared)
        known = name_factor(slope, recording.facts(pipeline, slope), 1e-3) if common else []
        known, tested = told_apart_by_gradient(pipeline, recording, known, slope)
        # Another direction, of a loop that asks the model more than once for a micro-batch, is what
        # adversarial training and sharpness-aware steps are made of.
        meant = recording.composed and not (known and within(1 - cosine, 1e-3))
        terms = not known and _of_their_own(pipeline, recording, confirmed)
        yield Finding(
            f"{len(bad)} of {len(names)} gradients differ from automatic differentiation: "
            + (
                f"{slope:.4f} x its size, in its direction (cosine {cosine:.6f})"
                if within(1 - cosine, 1e-3)
                else f"in another direction (cosine {cosine:.6f}; {slope:.4g} x as far along it)"
            ),
            observed={"slope": round(slope, 6), "cosine": round(cosine, 8)},
            expected={"slope": 1, "cosine": 1},
            where=", ".join(bad[:3]),
            factor=slope,
            candidates=tuple(known),
            tested=tested,
            cause=COMPOSED
            if meant
            else TERMS.format(confirmed.owner)
            if terms
            else explained(slope, known)
            if known
            else _cause(pipeline, recording),
            fix='if it is meant: objective = "custom" '
            + (
                "as an argument of Pipeline.from_loop"
                if pipeline.trainer is None
                else "in [tool.trainsanity], or as an attribute of your factory"
            )
            if meant
            else "nothing, if the term is meant"
            if terms
            else "find what writes to .grad of these parameters between the backward passes",
            severity=Severity.WARNING if meant or terms else Severity.FAILURE,
        )
    yield Measured(
        f"{len(names)} gradients (up to {SAMPLE:,} elements of each) against automatic "
        f"differentiation: {most}; {noisy} are rounding alone",
        most.greatest,
        most.allowed,
    )


def _in_part(observed: Tensor, exact: Tensor, share: float) -> bool:
    """Return whether some elements are 0, and the others as computed."""
    kept = observed != 0
    off = float((observed - exact)[kept].norm())
    return bool(kept.any()) and not bool(kept.all()) and within(off, share * float(exact.norm()))


def _of_their_own(pipeline: Pipeline, recording: Recording, confirmed: Confirmed) -> bool:
    """Return whether the user's own loss gave this gradient, each micro-batch by itself."""
    own = recording.own
    adds_up = own.total * own.times_processes(pipeline.args.world_size)
    room = MARGIN * own.eps + REDUCTIONS
    return (
        bool(confirmed.owner and own.losses)
        and pipeline.trainer is not None
        and within(abs(adds_up - 1), room)
        and within(own.residual, room)
    )


def _cause(pipeline: Pipeline, recording: Recording) -> str:
    """Return the most likely cause, by whether the loss itself is the reference."""
    if loss_is_the_reference(pipeline, recording.first) is False:
        return (
            "the loss that is trained is another than the plain mean that this is held against "
            "(TS502), or micro-batches are lost, counted twice or zeroed"
        )
    return (
        "micro-batches lost, counted twice or zeroed, a hook on these parameters, or a gradient "
        "beside the loss's"
    )
