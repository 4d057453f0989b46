"""TS707 update.freezing_is_real."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.freezing import Freezing
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS707",
    "update.freezing_is_real",
    cost=Cost.STEP,
    rules_out="what is frozen",
)
def freezing_is_real(
    pipeline: Pipeline, freezing: Freezing, recording: Recording
) -> Iterator[Measured | Finding]:
    """Freezing a module freezes its parameters.

    What it checks: modules with an attribute ``requires_grad`` that is False and parameters that
    are trained; and parameters that the model's own ``train()`` freezes and that a custom training
    loop trains, because it never calls it.

    Why it matters: ``module.requires_grad = False`` sets an attribute that nobody reads.  What was
    meant to be kept is trained at the learning rate of a new head, and nothing says so.

    How it is measured: exact.  The attributes are read; ``model.train()`` is called once and taken
    back, and what it freezes is held against what had a gradient in the recorded steps.

    How to fix: use the method, with the underscore::

        # bad
        model.bert.requires_grad = False
        # good
        model.bert.requires_grad_(False)

    and call ``model.train()`` at the beginning of each training step of a custom loop.

    Known false alarms: an attribute of that name that a module of one's own uses for something
    else.

    References: huggingface/transformers#95, open-mmlab/mmpretrain#702.
    """
    for name, count in freezing.attributes.items():
        yield Finding(
            f"{name or 'the model'}.requires_grad is an attribute with the value False, and "
            f"{count} of its parameters are still trained: nothing is frozen",
            observed=count,
            expected=0,
            where=name or "the model",
            cause="a module has no requires_grad: setting it makes an attribute that nobody reads",
            fix=f"{name or 'model'}.requires_grad_(False)",
        )
    trained = {p.name for p in recording.update.parameters if p.trainable and p.with_gradient}
    trained |= {p.name for p in recording.update.parameters if p.trainable and p.has_gradient}
    missed = [name for name in freezing.by_train if name in trained]
    if missed:
        yield Finding(
            f"{len(missed)} parameters are trained that model.train() would freeze: the training "
            "step never calls it",
            observed=len(missed),
            expected=0,
            where=", ".join(missed[:3]),
            cause="the model freezes stages in its own train(), and a new model is in training "
            "mode without a call",
            fix="call model.train() before the training step",
        )
    yield Measured(
        f"{len(freezing.attributes)} of {freezing.modules} modules are frozen by an attribute "
        f"alone, {len(missed)} parameters by a train() that is not called",
        len(freezing.attributes) + len(missed),
        0,
    )
