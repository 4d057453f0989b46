"""TS5: which loss it is, in which dtype, and whether evaluation agrees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..factors import name_factor, told
from ..measurements.evaluation import Evaluation
from ..measurements.recording import Recording, reference
from ..registry import check
from ..tasks import MULTI_LABEL, REGRESSION
from ..tolerances import logged_loss_rounding, within
from ..types import Abstain, Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline


@check(
    "TS504",
    "loss.train_equals_eval",
    cost=Cost.STEP,
    needs=("trainer",),
    requires=("dataset.labels_in_range", "loss.finite"),
    explained_by=("loss.matches_reference",),
    acquits="evaluation",
)
def train_equals_eval(
    pipeline: Pipeline, recording: Recording, evaluation: Evaluation
) -> Iterator[Seen | Finding]:
    """On the examples that were trained on, ``evaluate()`` says what the same mean says.

    What it checks: ``eval_loss`` of rows of the first step against the mean of their own losses,
    computed from the logits of that evaluation; and that no module is in training mode there.

    Why it matters: early stopping, ``load_best_model_at_end`` and every plot of training against
    evaluation compare the two.  Where one of them is scaled, or sums, the gap between them is read
    as overfitting or as its opposite.  Dropout that is on makes it noisy, and too large.

    How it is measured: ``trainer.evaluate`` runs on those rows with the user's Trainer, in eval
    mode and at the weights of step 1; logits and labels of each batch are recorded.  The Trainer
    takes the mean over rows of each batch's loss, and so does the reference.  Allowed is the
    rounding of the dtypes, as for the logged loss.

    How to fix: return the mean over the batch from ``compute_loss`` or ``prediction_step`` where
    ``num_items_in_batch`` is None.

    Known false alarms: an evaluation loss that is another function than the training loss, by
    design; dropout that is left on to sample predictions.

    References: huggingface/transformers#47688; unslothai/unsloth-zoo#1123;
    ``Trainer.evaluation_loop``.
    """
    expected, observed = evaluation.reference, evaluation.loss
    allowed = logged_loss_rounding(evaluation.batches)
    if not within(abs(observed - expected), allowed):
        factor = observed / expected if expected else math.nan
        names = name_factor(factor, pipeline.facts, 1e-3)
        yield Finding(
            f"evaluate() gives {observed:.4f} for {evaluation.rows} rows that were trained on; "
            f"the mean of their own losses is {expected:.4f}: {factor:.4f} x",
            observed=observed,
            expected=expected,
            factor=factor,
            where="Trainer.evaluate",
            candidates=tuple(names),
            cause=told(factor, names)
            if names
            else "what evaluation returns is not the mean over the batch",
            fix="return the batch's mean from compute_loss or prediction_step in evaluation",
        )
    if evaluation.training:
        named = [name for name in evaluation.training if name] or ["the model itself"]
        yield Finding(
            f"evaluate() asks the model with {len(evaluation.training)} of its modules in training "
            "mode: their dropout and noise are in the evaluation's loss",
            observed=len(evaluation.training),
            expected=0,
            where=", ".join(named[:3]),
            cause="train() is called on the way, or eval() is overridden",
            fix="leave model.eval() to the Trainer's evaluation_loop",
        )
    trained = recording.first.logged.get("loss", math.nan)
    yield Seen(
        f"evaluate() gives {observed:.4f} for {evaluation.rows} rows of step 1, the mean of their "
        f"losses is {expected:.4f}; training logged {trained:.4f}",
        observed,
        expected,
    )


@check(
    "TS505",
    "loss.dtype",
    cost=Cost.STEP,
    requires=("dataset.labels_in_range", "loss.finite"),
    acquits="precision",
)
def dtype(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
    """The loss is computed in a dtype that can tell it from its neighbours.

    What it checks: the dtype of the loss that the backward pass starts from, against what there is
    to see in it.

    Why it matters: around 11 a bfloat16 has steps of 1/16.  A loss of ten thousand tokens is known
    a hundred times better than that, and all of it is rounded away: the curve becomes a staircase,
    and so does the early part of every comparison.

    How it is measured: half a unit in the last place of the loss, in its dtype, against the
    standard error of the step's mean loss, computed from the items' own losses.  Rounding that is
    larger than the error is a failure.  float32 is what the library's own losses are computed in
    and always passes.

    How to fix: ``logits.float()`` before the loss.

    Known false alarms: none known.

    References: ``transformers.loss.loss_utils``; IEEE 754 for the unit in the last place.
    """
    import torch

    step = recording.first
    kind = step.micro_steps[0].loss_dtype
    name = str(kind).removeprefix("torch.")
    right = reference(pipeline, step)
    if torch.finfo(kind).bits >= 32:
        yield Seen(f"the loss is {name}", name, "float32")
        return
    losses = torch.cat([items.losses for items in right.parts])
    _, exponent = math.frexp(right.mean)
    half_unit = math.ldexp(torch.finfo(kind).eps, exponent) / 4
    error = float(losses.std()) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan
    if not error > 0:
        raise Abstain("all items have one loss: there is no spread to hold the rounding against")
    if not within(half_unit, error):
        yield Finding(
            f"the loss is {name}: around {right.mean:.2f} that rounds by up to {half_unit:.2g}, "
            f"and the mean over {right.count} {pipeline.task.counts} is known to {error:.2g}",
            observed=half_unit,
            expected=error,
            factor=half_unit / error,
            where="step 1",
            cause=f"the loss is computed from {name} logits",
            fix="compute it from logits.float()",
        )
    yield Seen(
        f"the loss is {name}: it rounds by {half_unit:.2g}, its mean is known to {error:.2g}",
        half_unit,
        error,
    )


@check(
    "TS506",
    "loss.problem_type",
    cost=Cost.STEP,
    acquits="loss function",
)
def problem_type(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
    """The loss function is the one that the labels ask for, also where transformers guesses it.

    What it checks: where ``config.problem_type`` is not set, the guess from ``num_labels`` and the
    labels' dtype against the labels' values.

    Why it matters: class ids that became floats on the way (a column with a missing value, a
    pandas round trip) turn classification into regression on the ids with ``num_labels=1``, and
    one-hot rows turn it into as many yes/no questions as there are classes.  Both train.

    How it is measured: on the labels of the recorded steps, exactly.  A guess of regression fails
    if all targets are 0 or 1 and both occur; a guess of several labels fails if every row has
    exactly one.  What is stated in ``problem_type`` is not a guess and passes.

    How to fix: set ``config.problem_type``; for one class per row give integer ids and
    ``num_labels`` as many as there are classes.

    Known false alarms: a probability that happens to be 0 or 1 in every row looked at.

    References: ``transformers.loss.loss_utils.ForSequenceClassificationLoss``.
    """
    import torch

    task = pipeline.task.name
    stated = getattr(pipeline.config, "problem_type", None)
    parts = [m.items for step in recording.steps for m in step.micro_steps if m.items is not None]
    if not parts:
        raise Skip("no labels were seen in the first step")
    targets = torch.cat([items.targets.flatten(1) for items in parts]) if task in GUESSED else None
    if targets is not None and not bool(targets.isfinite().all()):
        yield Finding(
            "targets that are no numbers ask for no loss function",
            observed=int((~targets.isfinite()).sum()),
            expected=0,
            where="labels of the recorded steps",
            cause="a column with missing values",
            fix="drop the rows without a label",
        )
        return
    guess = f"problem_type is not set, and transformers guesses {task}"
    finding: dict[str, Any] = {}
    if targets is not None and not stated:
        ones, zeros = targets == 1, targets == 0
        if task == REGRESSION and bool((ones | zeros).all()) and bool(ones.any() and zeros.any()):
            finding = {
                "message": f"{guess} from num_labels = {targets.shape[-1]}; all {len(targets)} "
                "targets are 0 or 1",
                "cause": "two classes whose ids are trained on as numbers",
                "fix": "num_labels=2 and integer labels; problem_type='regression' if it is meant",
            }
        elif task == MULTI_LABEL and bool(((ones.sum(-1) == 1) & (ones | zeros).all(-1)).all()):
            finding = {
                "message": f"{guess} from float labels; each of the {len(targets)} rows has "
                "exactly one",
                "cause": "one-hot rows: each class became a yes/no question of its own",
                "fix": "give class ids as integers; problem_type='multi_label_classification' if "
                "it is meant",
            }
    if finding:
        yield Finding(
            **finding,
            observed=task,
            expected="single_label_classification",
            where="model.config.problem_type",
        )
    seen = sum(len(items.targets) for items in parts)
    how = "as stated" if stated else "as the labels ask for"
    yield Seen(f"{task} of {seen} targets, {how}", task, task)


GUESSED = (REGRESSION, MULTI_LABEL)
"""Tasks that are guessed from a dtype, or from a number of labels."""
