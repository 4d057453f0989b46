"""TS504 loss.train_equals_eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.maths.factors import Factor, explained
from trainsanity.maths.tolerances import within
from trainsanity.measurements.step.bounds import logged_loss_rounding
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.evaluation import Evaluation
from trainsanity.measurements.step.steps import Recording
from trainsanity.repairs import COUNT_IGNORED
from trainsanity.types import Cost, Finding, Judges, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS504",
    "loss.train_equals_eval",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("dataset.labels_in_range", "loss.finite"),
    explained_by=("loss.matches_reference",),
    rules_out="evaluation",
    judges=Judges.LOSS,
)
def train_equals_eval(
    pipeline: Pipeline, recording: Recording, evaluation: Evaluation, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """``evaluate()`` returns the mean loss of the rows that it is given.

    What it checks: ``eval_loss`` of rows of the first step against the mean of their own losses,
    computed from the logits of that evaluation; and that no module is in training mode there.

    Why it matters: early stopping, ``load_best_model_at_end`` and every plot of training against
    evaluation compare the two.  Where one of them is scaled, or sums, the gap between them is read
    as overfitting or as its opposite.  Dropout that is on makes it noisy, and too large.

    How it is measured: ``trainer.evaluate`` runs on those rows with the user's Trainer, in eval
    mode and at the weights of step 1; logits and labels of each batch are recorded.  The Trainer
    takes each batch's loss as often as the batch has rows, and so does the reference, by what it
    gathers: a collator may pack rows, and a loader end in a smaller batch.  Allowed is the
    rounding of the dtypes, as for the logged loss.

    How to fix: return the mean over the batch from ``compute_loss`` or ``prediction_step`` where
    ``num_items_in_batch`` is None.

    Known false alarms: an evaluation loss that is another function than the training loss, by
    design; dropout that is left on to sample predictions.

    References: huggingface/transformers#47688; unslothai/unsloth-zoo#1123;
    ``Trainer.evaluation_loop``.
    """
    confirmed.require()
    expected, observed = evaluation.reference, evaluation.loss
    allowed = logged_loss_rounding(evaluation.batches)
    if not within(abs(observed - expected), allowed):
        factor = Factor.of(observed, expected, allowed)
        names = factor.names(Session.of(pipeline).facts)
        yield Finding(
            f"evaluate() gives {observed:.4f} for {evaluation.rows} rows that were trained on; "
            f"the mean of their own losses is {expected:.4f}: {factor.value:.4f} x",
            observed=observed,
            expected=expected,
            factor=factor.value,
            where="Trainer.evaluate",
            candidates=tuple(names),
            **_cause(pipeline, recording, factor, names),
        )
    if evaluation.training:
        named = [name for name in evaluation.training if name] or ["the model itself"]
        yield Finding(
            f"evaluate() runs the model with {len(evaluation.training)} of its modules in training "
            "mode: their dropout and noise are in the evaluation's loss",
            observed=len(evaluation.training),
            expected=0,
            where=", ".join(named[:3]),
            cause="train() is called on the way, or eval() is overridden",
            fix="leave model.eval() to the Trainer's evaluation_loop",
        )
    logged = recording.first.logged.get("loss")
    trained = "" if logged is None else f"; training logged {logged:.4f}"
    yield Measured(
        f"evaluate() gives {observed:.4f} for {evaluation.rows} rows of step 1, the mean of their "
        f"losses is {expected:.4f}; {len(evaluation.training)} modules are in training mode"
        f"{trained}",
        observed,
        expected,
    )


def _cause(
    pipeline: Pipeline, recording: Recording, factor: Factor, names: list[str]
) -> dict[str, Any]:
    """Return cause and fix of a scaled evaluation."""
    counts = recording.first.micro_steps[0].num_items_in_batch is not None
    taken = getattr(pipeline.trainer, "model_accepts_loss_kwargs", False)
    world = Session.of(pipeline).facts.get("world_size") or 1
    by_processes = world > 1 and abs(factor.value / world - 1) <= factor.tolerance
    if by_processes and counts and taken:
        # The Trainer multiplies by the number of processes, in evaluate() too, what it takes for a
        # share of num_items_in_batch: Trainer.compute_loss under average_tokens_across_devices.
        return {
            "cause": f"{factor.value:.2f} is world_size = {world}: the Trainer multiplies by it a "
            "loss that it takes for a share of num_items_in_batch, because forward takes **kwargs; "
            "the model's loss ignores that number and is a mean already",
            "fix": "model.accepts_loss_kwargs = False, before the Trainer is built",
            "repairs": (COUNT_IGNORED,),
        }
    return {
        "cause": explained(factor.value, names)
        if names
        else "compute_loss or prediction_step returns something else than the batch's mean",
        "fix": "return the batch's mean from compute_loss or prediction_step in evaluation",
    }
