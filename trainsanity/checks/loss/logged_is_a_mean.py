"""TS507 loss.logged_is_a_mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.checks.loss._words import logs_a_loss
from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.maths.factors import BETWEEN, explained, name_factor, only
from trainsanity.maths.tolerances import LOG_DECIMALS, MARGIN, REDUCTIONS, within
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import count_ignored
from trainsanity.types import Cost, Finding, Judges, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS507",
    "loss.logged_is_a_mean",
    cost=Cost.STEP,
    requires=("loss.finite",),
    explained_by=("loss.matches_reference",),
    rules_out="loss scale",
    judges=Judges.LOSS,
)
def logged_is_a_mean(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The logged loss is a mean of the micro-batches' own losses.

    What it checks: the loss that the Trainer logs for the first step against what each of its
    micro-batches logs when it is taken as a whole step of its own; on several processes also
    whether a micro-batch's loss depends on the Trainer giving it an item count.

    Why it matters: it needs no formula of the loss. A mean lies between the smallest and the
    largest of what it is taken over; a logged loss outside is wrong by a factor, and so is every
    comparison with it.

    How it is measured: the own losses come from the user's own training_step with
    gradient_accumulation_steps = 1. The expected value is their mean with the weights that the
    step's gradient shows (equal ones where the gradients do not tell). The logged loss has to lie
    between the smallest and the largest own loss. On several processes each micro-batch is asked
    once more without an item count: if it then logs less by the number of processes, which the
    Trainer multiplies by for losses that are divided by that count, those are the own losses. The
    tolerance is four units in the last place of the coarsest dtype in use, and the decimals of the
    log.

    How to fix: for a model whose forward takes **kwargs and whose loss ignores num_items_in_batch,
    set model.accepts_loss_kwargs = False before the Trainer is built; a compute_loss of your own
    returns the sum divided by num_items_in_batch, or sets loss_is_scaled_for_ga = False.

    A custom training loop whose step is that of all its rows as one batch, as with a contrastive
    loss over all pairs, logs no mean of the micro-batches' own losses and is not held against it.

    Known false alarms: none known. An error that every micro-batch shares is invisible here; a loss
    near zero by nature (GRPO) has no scale, and gradient.step_is_the_weighted_sum judges it. What
    a library's model adds to its loss (the balance of experts) transformers does not divide by
    gradient_accumulation_steps: where that alone is the difference it is a warning.

    References: huggingface/transformers#47688, #37766, #37110.
    """
    own, logged = recording.own, recording.first.logged.get("loss")
    if own.reason:
        raise Skip(f"the micro-batches could not be asked again: {own.reason}")
    if logged is None:
        raise Skip("no loss was logged for the first step")
    # Own losses that are too large by the number of processes are no measure.
    times = own.times_processes(pipeline.args.world_size)
    losses = own.losses if times == 1 else own.uncounted
    expected, low, high = own.expected / times, min(losses), max(losses)
    allowed = LOG_DECIMALS + (MARGIN * own.eps + REDUCTIONS) * max(abs(low), abs(high))
    if abs(expected) <= MARGIN * allowed and within(abs(logged), MARGIN * allowed):
        raise Skip("own and logged losses are zero within rounding: no factor could be seen")
    if not (within(low - logged, allowed) and within(logged - high, allowed)):
        factor = logged / expected if expected else math.nan
        more = "" if times == 1 else f" ({times:g} times that if given an item count)"
        tolerance = max(allowed / abs(expected), 1e-3) if expected else 1e-3
        names = name_factor(factor, only(Session.of(pipeline).facts, BETWEEN), tolerance)
        if confirmed.times > 1:
            yield Finding(
                f"{_logs(pipeline, logged)} step 1, in which "
                f"{confirmed.added} counts {confirmed.times} times",
                observed=logged,
                expected=expected,
                factor=float(confirmed.times),
                where="step 1",
                cause="the model adds it in every micro-batch, and it is not divided by "
                "gradient_accumulation_steps: it weighs that much more than the config says",
                fix=f"if that is not meant, divide its coefficient by {confirmed.times}",
                severity=Severity.WARNING,
            )
        else:
            yield Finding(
                f"{_logs(pipeline, logged)} step 1; its {len(losses)} "
                f"micro-batches by themselves log {_range(low, high)}{more}: "
                f"{factor:.2f} x their mean",
                observed=logged,
                expected=expected,
                factor=factor,
                where="step 1",
                cause=f"{explained(factor, names)}, which is "
                + ("not divided out" if factor > 1 else "divided out twice")
                if names
                else None,
                fix="model.accepts_loss_kwargs = False where the loss ignores num_items_in_batch; "
                "otherwise compare what compute_loss returns with a mean"
                if pipeline.trainer is not None
                else f"loss = loss / {len(losses)} before backward(), and nowhere else",
                candidates=tuple(names),
                repairs=count_ignored(pipeline) if names else (),
            )
    yield Measured(
        f"logged loss {logged:.4f}; the {len(own.losses)} micro-batches by themselves log "
        f"{_range(low, high)}, {expected:.4f} on average",
        logged,
        expected,
    )


def _logs(pipeline: Pipeline, loss: float) -> str:
    if pipeline.train_step is not None:
        return f"train_step returns a loss of {loss:.4f} for"
    return logs_a_loss(pipeline, loss)


def _range(low: float, high: float) -> str:
    return f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"
