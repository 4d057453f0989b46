"""TS506 loss.problem_type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.engine.session import objective_of
from trainsanity.measurements.step.confirmed import Confirmed
from trainsanity.measurements.step.steps import Recording
from trainsanity.objectives.base import MULTI_LABEL, REGRESSION
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

KINDS = 3
"""Kinds of whole numbers from which on they look like classes; two are 0 and 1, a failure."""

A_KIND = 2
"""Targets of each kind, on average: numbers that hardly repeat are counts or amounts."""

GUESSED = (REGRESSION, MULTI_LABEL)
"""Tasks that are guessed from a dtype, or from a number of labels."""


@check(
    "TS506",
    "loss.problem_type",
    cost=Cost.STEP,
    rules_out="loss function",
)
def problem_type(
    pipeline: Pipeline, recording: Recording, confirmed: Confirmed
) -> Iterator[Measured | Finding]:
    """The guessed problem type fits the labels.

    What it checks: where ``config.problem_type`` is not set, the guess from ``num_labels`` and the
    labels' dtype against the labels' values.

    Why it matters: class ids that became floats on the way (a column with a missing value, a
    pandas round trip) turn classification into regression on the ids with ``num_labels=1``, and
    one-hot rows turn it into as many yes/no questions as there are classes.  Both train.

    How it is measured: on the labels of the recorded steps, exactly.  A guess of regression fails
    if all targets are 0 or 1 and both occur; a guess of several labels fails if every row has
    exactly one.  Where ``compute_loss`` computes another loss than the guessed one, nothing is
    guessed. Regression on few whole numbers from 0 or 1 on without a gap, as classes are numbered,
    is a warning: ratings look the same.  What is stated in ``problem_type`` is not a guess and
    passes.

    How to fix: set ``config.problem_type``; for one class per row give integer ids and
    ``num_labels`` as many as there are classes.

    Known false alarms: a probability that happens to be 0 or 1 in every row looked at.

    References: huggingface/transformers#7571;
    ``transformers.loss.loss_utils.ForSequenceClassificationLoss``.
    """
    import torch

    if pipeline.config is None:
        raise Skip("the model has no config: nothing is guessed of the labels")
    if confirmed.custom:
        raise Skip(f"{confirmed.owner} is a loss of its own: nothing is guessed of the labels")
    task = objective_of(pipeline).name
    stated = getattr(pipeline.config, "problem_type", None)
    parts = [m.items for step in recording.steps for m in step.micro_steps if m.items is not None]
    if not parts:
        raise Skip("no labels were seen in the first step")
    targets = torch.cat([items.targets.flatten(1) for items in parts]) if task in GUESSED else None
    guess = f"problem_type is not set, and transformers guesses {task}"
    finding: dict[str, Any] = {}
    if targets is not None and not bool(targets.isfinite().all()):
        bad = int((~targets.isfinite()).sum())
        yield Finding(
            f"{bad} of {targets.numel()} targets are no numbers: no loss function takes them",
            observed=bad,
            expected=0,
            where="labels of the recorded steps",
            cause="a column with missing values, or a division by zero that made the labels",
            fix="drop the rows without a label",
        )
    elif targets is not None and not stated:
        kinds = sorted(set(targets.flatten().tolist()))
        if task == REGRESSION and _like_classes(kinds, len(targets)):
            yield Finding(
                f"{guess} from num_labels = {targets.shape[-1]}; all {len(targets)} targets are "
                f"whole numbers from {kinds[0]:g} to {kinds[-1]:g}",
                observed=task,
                expected="single_label_classification, if they are classes",
                where="model.config.problem_type",
                cause="numbers of classes are trained on by a squared error, for which class "
                f"{kinds[-1]:g} is further from class 0 than class 1 is; ratings are as they "
                "should be",
                fix="num_labels= as many as there are classes, and integer labels; "
                "problem_type='regression' if it is meant",
                severity=Severity.WARNING,
            )
        ones, zeros = targets == 1, targets == 0
        if task == REGRESSION and bool((ones | zeros).all()) and bool(ones.any() and zeros.any()):
            finding = {
                "headline": f"{guess} from num_labels = {targets.shape[-1]}; all {len(targets)} "
                "targets are 0 or 1",
                "cause": "two classes whose ids are trained on as numbers",
                "fix": "num_labels=2 and integer labels; problem_type='regression' if it is meant",
            }
        elif task == MULTI_LABEL and bool(((ones.sum(-1) == 1) & (ones | zeros).all(-1)).all()):
            finding = {
                "headline": f"{guess} from float labels; each of the {len(targets)} rows has "
                "exactly one",
                "cause": "one-hot rows: each class became a yes/no question of its own",
                "fix": "give class ids as integers; problem_type='multi_label_classification' if "
                "it is meant",
                "repairs": (repair("class ids for one-hot labels", "labels_as_ids"),),
            }
    if finding:
        yield Finding(
            **finding,
            observed=task,
            expected="single_label_classification",
            where="model.config.problem_type",
        )
    seen = sum(len(items.targets) for items in parts)
    yield Measured(
        f"{seen} targets are trained as {task}; problem_type is {stated or 'not set'}", task, task
    )


def _like_classes(kinds: list[float], count: int) -> bool:
    """Return whether these are numbers of classes: whole, without a gap, and repeated."""
    first = kinds[0] if kinds else -1
    without_gap = kinds == [first + k for k in range(len(kinds))]
    return len(kinds) >= KINDS and first in (0, 1) and without_gap and count >= A_KIND * len(kinds)
