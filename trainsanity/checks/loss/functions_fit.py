"""TS532 loss.functions_fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS532",
    "loss.functions_fit",
    cost=Cost.STEP,
    requires=("model.logits_finite",),
    explained_by=("loss.formula_is_known",),
    rules_out="values that a loss function does not take",
)
def functions_fit(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Loss functions of torch are given logits, log-probabilities or labels as each expects.

    What it checks: what the first steps gave to cross_entropy, nll_loss, kl_div, ctc_loss, the
    binary and the margin losses: logits, logarithms of probabilities, probabilities, signs, as each
    function's documentation asks for. For mse_loss, l1_loss, smooth_l1_loss and huber_loss: whether
    outputs of a sigmoid, a softmax, a tanh or a cosine can reach the targets. For overlaps (Dice,
    IoU), which torch has no function for: whether they are made of logits. For scores that are
    cosines: whether the number that they are multiplied by leaves anything to be learnt.

    Why it matters: they are all tensors of the same shape, so nothing raises. A softmax before
    cross entropy keeps the loss above a floor, probabilities in place of logarithms make a
    divergence negative, a softmax over topics lets topics compete that hold together, and targets
    of 0 where -1 is meant switch half of the rows off. A cosine ends at 1: all pairs with a score
    above 1 have the same best answer. An overlap of logits has no bound.

    How it is measured: each call with a gradient is looked at while its tensors exist, the first 8
    from each line. Rows that sum to 1 are probabilities (within 1e-4, or 4 units in the last place
    of the dtype); logarithms of probabilities are not above 0; an activation is recognised by the
    node of the autograd graph that made the values. With C classes, outputs within a span s leave a
    cross entropy of at least log(1 + (C - 1) exp(-s)). Targets out of reach are a warning up to a
    tenth of them, and a failure beyond. An overlap is recognised by its graph: a layer's outputs
    times a mask of zeros and ones, divided by a sum of the same outputs, with nothing but sums,
    scalings and interpolations between. A normalize or softmax of your own over outputs with one
    row for each of the batch is looked at, too: along axis 0 it makes each row depend on the
    others. Of losses that are taken element by element (``reduction="none"``), targets count to
    which a gradient comes back: what a mask leaves out may be anything. Scores are cosines where
    they are a product of vectors of length 1 that were seen to be made, times one number k; with n
    candidates the loss is at least log(1 + (n - 1) exp(-k n / (n - 1))), which is a failure above
    90 % of log n unless a temperature is trained. A compiled model is not looked at.

    How to fix: give cross_entropy and the functions "with_logits" what comes before the activation,
    nll_loss, kl_div and ctc_loss the log_softmax.

    Bad::

        loss = cross_entropy(model(**batch).logits.softmax(-1), labels)

    Good::

        loss = cross_entropy(model(**batch).logits, labels)

    Known false alarms: none known. A loss that means to bound its outputs by a softmax would be
    one.

    References: lansinuote/Huggingface_Toturials#6, microsoft/ProDA#20, open-mmlab/mmpretrain#783,
    huggingface/sentence-transformers#1095, lightonai/pylate#115, milesial/Pytorch-UNet#271;
    read: torch.nn.functional.
    """
    calls = recording.loss_calls
    parts = len(recording.first.micro_steps) > 1 or bool(pipeline.other_processes)
    misfits = [
        (call, misfit) for call in calls for misfit in call.misfits if parts or not misfit.of_parts
    ]
    for call, misfit in misfits:
        yield Finding(
            misfit.headline,
            where=call.where,
            cause=misfit.cause,
            fix=misfit.fix,
            severity=misfit.severity,
        )
    names = ", ".join(sorted({call.function for call in calls})) or "a loss function of torch"
    yield Measured(
        f"{sum(call.count for call in calls)} calls of {names} were looked at; {len(misfits)} "
        "kinds of arguments are others than it takes",
        len(misfits),
        0,
    )
