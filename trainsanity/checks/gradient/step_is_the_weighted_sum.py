"""TS608 gradient.step_is_the_weighted_sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.gradient._scale import STALE
from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.maths.factors import BETWEEN, explained, name_factor, only
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, STANDARD_ERRORS, within
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.own import Own
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import count_ignored
from trainsanity.types import Blocked, Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS608",
    "gradient.step_is_the_weighted_sum",
    cost=Cost.STEP,
    requires=("loss.finite", "gradient.finite"),
    explained_by=("loss.matches_reference", "loss.logged_is_a_mean"),
    rules_out="gradient accumulation",
    judges=Judges.GRADIENT,
)
def step_is_the_weighted_sum(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The step's gradient is a mean of its micro-batches' own gradients.

    What it checks: the gradient that the first optimizer step accumulated, as a weighted sum of
    what each micro-batch gives when it is taken as a whole step of its own.

    Why it matters: it needs no formula of the loss, so it holds for any objective. A sum of weights
    of 4 is a gradient that is 4 times too long; a weight of 0 is a micro-batch that trains nothing;
    twice its share is one that counts double.

    How it is measured: between the backward pass and the optimizer, every micro-batch is given to
    the user's own training_step again, with the same weights and random numbers, its own item
    count, and gradient_accumulation_steps = 1. The weights w minimise |g - sum_k w_k g_k| over up
    to 4,096 elements of each parameter's gradient. Their sum has to be 1 within four standard
    errors plus four units in the last place of the gradient's dtype; a single weight that is 0 or
    twice 1/K is told where the own gradients differ enough to tell them apart.  A remainder of the
    gradient that no micro-batch explains is a warning.  A script's own training loop, which cannot
    be asked again, is held against the loss that its model returned, or that a function of
    torch.nn.functional made of the model's output, where what it sends backward is that loss times
    one number in all passes. Where a step has one backward pass, and its loss is another (several
    terms, several calls), what it sends backward is differentiated once more and has to be the
    step's gradient.

    How to fix: the finding says which factor it is and where it comes from.

    A custom training loop whose gradient is none of that is given all rows of the step as a single
    batch, with every layer in eval mode: where that gives the same loss and gradient, as with a
    contrastive loss over all pairs of a step, accumulation is right.

    Known false alarms: an error that every micro-batch shares is invisible here (a sum instead of a
    mean, a shift): the checks with a formula see it. A regulariser that is added once a step, or
    noise of another random generator, is the remainder and a warning. So is what a library's model
    adds to its loss in every micro-batch (see loss.logged_is_a_mean).

    References: huggingface/transformers#47688, #37766; huggingface/accelerate#1299 and
    allenai/open-instruct#1498 for gradients that are wiped between micro-batches.
    """
    own = recording.own
    if recording.first.left:
        raise Blocked(STALE, by="gradient.starts_from_zero")
    if own.reason and recording.sent is not None:
        yield from _of_what_was_sent(recording.sent)
        return
    if own.reason:
        raise Skip(f"the micro-batches could not be asked again: {own.reason}")
    if not own.norm > 0:
        raise Skip("the step's gradient is zero: gradient.not_zero judges that")
    if math.isinf(own.norm):
        raise Skip("the step's gradient is infinite: gradient.finite judges that")
    known = [k for k, weight in enumerate(own.weights) if not math.isnan(weight)]
    if not known:
        raise Skip("every micro-batch's own gradient is zero, and the step's is not")
    allowed = _allowed(own)
    # As the losses: what an item count multiplies by the processes is no mean by itself.
    total = own.total * own.times_processes(pipeline.args.world_size)
    count = len(own.weights)
    shares = [own.weights[k] * count for k in known]
    off = [
        k
        for k in known
        if own.tells_apart
        and count > 1
        and _stands_out(own.weights[k] * count, [own.weights[j] * count for j in known if j != k],
                        allowed + STANDARD_ERRORS * own.errors[k] * count)
    ]  # fmt: skip
    if confirmed.times > 1:
        yield Finding(
            f"{confirmed.added} counts {count} times in the step's gradient, the rest of the loss "
            "as a mean",
            observed=confirmed.times,
            expected=1,
            where="step 1",
            factor=float(confirmed.times),
            cause="the model adds it in every micro-batch, and it is not divided by "
            "gradient_accumulation_steps",
            fix=f"if that is not meant, divide its coefficient by {confirmed.times}",
            severity=Severity.WARNING,
        )
    elif off:
        yield Finding(
            f"micro-batch {off[0] + 1} of {count} has a weight of {own.weights[off[0]]:.4f} in the "
            f"step's gradient, the others {_others(own, off)}",
            observed=[round(weight, 4) for weight in own.weights],
            expected=[round(1 / count, 4)] * count,
            where=", ".join(f"micro-batch {k + 1}" for k in off),
            factor=own.total,
            cause="a gradient that was zeroed between micro-batches, or accumulated twice",
            fix="zero the gradients once, after the optimizer's step, and call backward once for "
            "each micro-batch",
        )
    elif not within(abs(total - 1), allowed):
        facts = only(Session.of(pipeline).facts, BETWEEN)
        names = name_factor(total, facts, max(allowed, 1e-3))
        yield Finding(
            f"the step's gradient is {total:.4f} times a mean of its {count} micro-batches' "
            "own gradients",
            observed=total,
            expected=1.0,
            where="step 1",
            factor=total,
            cause=f"{explained(total, names)}, which is "
            + ("not divided out" if total > 1 else "divided out twice")
            if names
            else "no setting of the run is that factor: possibly something zeroes, scales or clips "
            "gradients between the backward passes",
            fix="look for zero_grad(), hooks and callbacks between the backward passes; each "
            "micro-batch's gradient is added once"
            if not names
            else f"loss = loss / {count} before backward(), and nowhere else"
            if pipeline.trainer is None
            else "let the Trainer divide by gradient_accumulation_steps: "
            "model.accepts_loss_kwargs = False where the loss ignores num_items_in_batch",
            candidates=tuple(names),
            repairs=count_ignored(pipeline) if names else (),
        )
    floor = MARGIN * own.eps * math.sqrt(count) + REDUCTIONS
    if confirmed.times == 1 and not within(own.residual, floor):
        yield Finding(
            f"{own.residual:.2%} of the step's gradient is no micro-batch's own; rounding explains "
            f"up to {floor:.2%}",
            observed=own.residual,
            expected=floor,
            where="step 1",
            cause="something is added once a step, or a forward pass differs when it is repeated",
            fix="look for noise with a generator of its own, a penalty added in a hook, or state "
            "that changes between micro-batches",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"sum of the weights {total:.4f} over {count} micro-batches, each times {count} from "
        f"{min(shares):.4f} to {max(shares):.4f}, remainder {own.residual:.2g}",
        total,
        1.0,
    )


def _of_what_was_sent(sent: Own) -> Iterator[Measured | Finding]:
    """Judge a step whose loss is known only as what was sent backward."""
    total, known = sent.total, sent.norm > 0 and math.isfinite(sent.norm)
    if not known or math.isnan(sent.weights[0]):
        raise Skip("what the loop sends backward has no gradient, or the step has none")
    floor = MARGIN * sent.eps + REDUCTIONS
    off = not within(abs(total - 1), floor)
    if off or not within(sent.residual, floor):
        yield Finding(
            f"the step's gradient is {total:.4f} times that of what its backward pass was given"
            if off
            else f"{sent.residual:.2%} of the step's gradient is not that of what its backward "
            "pass was given",
            observed=total if off else sent.residual,
            expected=1.0 if off else floor,
            where="step 1",
            factor=total if off else None,
            cause="something scales gradients, or adds to them, between the backward pass and the "
            "optimizer's step",
            fix="look for hooks of tensors and modules, and for gradients that are changed by hand",
            severity=Severity.FAILURE if off else Severity.WARNING,
        )
    yield Measured(
        f"the step's gradient is {total:.4f} times that of what its backward pass was given, "
        f"remainder {sent.residual:.2g}",
        total,
        1.0,
    )


def _allowed(own: Own) -> float:
    """Return how far the sum of weights may be from 1: rounding, and what noise hides.

    Standard errors of the single weights add up as of independent ones where they are told apart;
    otherwise the sum is the only thing that is known, and is known well.  A number that is none
    explains nothing.
    """
    if not math.isfinite(own.condition):
        return math.nan
    errors = [error for error, w in zip(own.errors, own.weights, strict=True) if not math.isnan(w)]
    spread = math.sqrt(sum(error**2 for error in errors)) if own.tells_apart else 0.0
    return MARGIN * own.eps + REDUCTIONS + STANDARD_ERRORS * spread


def _stands_out(share: float, others: list[float], allowed: float) -> bool:
    """Return whether a micro-batch is lost beside others that count, or counts twice."""
    if not others:
        return False
    middle = sorted(others)[len(others) // 2]
    if within(abs(share), allowed):
        return middle > allowed
    return any(within(abs(share / middle - times), allowed * times) for times in (2, 3)) and all(
        within(abs(other / middle - 1), allowed) for other in others
    )


def _others(own: Own, off: list[int]) -> str:
    rest = [
        weight for k, weight in enumerate(own.weights) if k not in off and not math.isnan(weight)
    ]
    if not rest:
        return "have none"
    low, high = min(rest), max(rest)
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"
