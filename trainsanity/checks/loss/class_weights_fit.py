"""TS535 loss.class_weights_fit."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.maths.class_weights import CLOSE, UNEVEN, chosen, relation
from trainsanity.maths.tolerances import within
from trainsanity.measurements.data.label_prior import label_counts, positive_counts
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.objectives.loss_places import LossCall
    from trainsanity.pipeline import Pipeline


@check("TS535", "loss.class_weights_fit", cost=Cost.STEP, rules_out="weights of other classes")
def class_weights_fit(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Class weights that were computed from the classes' counts belong to these classes.

    What it checks: the weights that ``cross_entropy`` is given against the counts of the training
    labels, and the ``pos_weight`` of ``binary_cross_entropy_with_logits``.

    Why it matters: weights that rise with frequency push the rare classes further out of sight,
    which is what they were to prevent. ``Counter(labels).most_common()`` and
    ``value_counts()`` are sorted by frequency and not by class: made into a tensor as they come,
    each weight belongs to another class. Neither raises, and the loss goes down.

    How it is measured: weights made of counts are powers of these, a line in logarithms. A failure
    if they are a rising line (of two classes: if they are the counts themselves), or a falling one
    only after weights and counts were each sorted, within a tenth; and if every ``pos_weight`` is
    positives over negatives, the reciprocal of what balances them, within a tenth. Weights of any
    other kind were chosen, and are not judged. It is a warning where that may be chance: where all
    weights are round numbers, and no power of the counts to their last digit, as costs are; and
    where every label has more positives than negatives, which may not be missed.

    How to fix: index by class, and give rare classes the larger weight::

        # bad
        counts = Counter(labels)
        weights = torch.tensor([len(labels) / n for _, n in counts.most_common()])
        # good
        counts = torch.bincount(torch.tensor(labels), minlength=num_labels)
        weights = counts.sum() / (num_labels * counts)

    Known false alarms: none known.

    References: pytorch/pytorch#16804, declare-lab/MELD#51, PRBonn/lidar-bonnetal#48.
    """
    given = [call for call in recording.loss_calls if call.weights]
    if not given:
        raise Skip("no loss is given weights of classes, or of positives")
    told = ""
    for call in given:
        if call.function != "cross_entropy":
            told = yield from _of_positives(pipeline, call)
            continue
        counts = label_counts(pipeline, len(call.weights))
        if counts is None or not all(counts) or min(call.weights) <= 0:
            raise Skip("the labels of the training rows cannot be counted, or a class has no row")
        found = relation(call.weights, counts)
        told = f"weights of {len(counts)} classes against their counts: {found}"
        if found in ("with frequency", "of other classes"):
            most = max(range(len(counts)), key=counts.__getitem__)
            least = min(range(len(counts)), key=counts.__getitem__)
            yield Finding(
                f"class {most} has {counts[most]} rows and a weight of {call.weights[most]:.3g}, "
                f"class {least} {counts[least]} rows and a weight of {call.weights[least]:.3g}",
                observed=[round(weight, 6) for weight in call.weights],
                where=call.where,
                cause="the weights rise with the counts: frequent classes weigh more"
                if found == "with frequency"
                else "the weights are those of other classes: sorted alike, weights and counts fit",
                fix="weights = counts.sum() / (num_labels * counts), with counts by class, as "
                "torch.bincount(labels, minlength=num_labels) has them",
                severity=Severity.WARNING if chosen(call.weights, counts) else Severity.FAILURE,
            )
    yield Measured(told)


def _of_positives(pipeline: Pipeline, call: LossCall) -> Generator[Finding, None, str]:
    """Yield weights of positives that are the reciprocals of what the counts make; say the rest."""
    counted = positive_counts(pipeline, len(call.weights))
    if counted is None or min(call.weights) <= 0:
        raise Skip("the positives of the training rows cannot be counted")
    rows, positives = counted
    if not all(0 < count < rows for count in positives):
        raise Skip("a label has no positive in the training rows, or nothing else")
    balanced = [(rows - count) / count for count in positives]
    logs = [(math.log(w), math.log(b)) for w, b in zip(call.weights, balanced, strict=True)]
    uneven = max(abs(b) for _, b in logs) > UNEVEN
    if uneven and all(within(abs(w + b), CLOSE) for w, b in logs):
        rare = any(b > UNEVEN for _, b in logs)
        rarest = min(range(len(positives)), key=positives.__getitem__)
        yield Finding(
            f"pos_weight is {call.weights[rarest]:.3g} for label {rarest}, which "
            f"{positives[rarest]} of {rows} rows have: negatives over positives are "
            f"{balanced[rarest]:.3g}",
            observed=[round(weight, 6) for weight in call.weights],
            expected=[round(weight, 6) for weight in balanced],
            where=call.where,
            cause="pos_weight is positives over negatives: what is rare weighs less"
            if rare
            else "pos_weight is positives over negatives, or what is frequent may not be missed",
            fix="pos_weight = (rows - positives) / positives",
            severity=Severity.FAILURE if rare else Severity.WARNING,
        )
    return f"weights of the positives of {len(positives)} labels against their counts"
