"""TS915 loop.trains_in_train_mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.modes import frozen_modules, of_a_mode
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS915",
    "loop.trains_in_train_mode",
    cost=Cost.STEP,
    rules_out="mode of training",
)
def trains_in_train_mode(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """The model is in training mode while it is trained.

    What it checks: whether any module is in training mode when the model runs in a training step,
    where the model has dropout, or batch norms that are trained.

    Why it matters: an evaluation calls ``model.eval()``, and nobody calls ``model.train()`` again:
    from then on there is no dropout and batch statistics are frozen.  The training loss is lower
    than it should be, and the model overfits earlier.

    How it is measured: exact, in each pass with gradients of the recorded steps.  A custom training
    step runs with the model in the mode in which the pipeline was handed over.  Where that is a
    model that ``from_pretrained`` returned (in eval mode), it is a warning: the call of
    ``model.train()`` may stand outside the step, where it was not seen.

    A script's own loop is judged before its first evaluation: there it is a warning, read off the
    source, where the loop calls ``eval()`` of the model in each round and neither it nor another
    function of the script's modules calls ``train()``.

    How to fix: call it where the steps are taken::

        # bad
        model.train()
        for batch in loader:
            step(batch)
            evaluate(model)  # calls model.eval()
        # good
        for batch in loader:
            model.train()
            step(batch)
            evaluate(model)

    Known false alarms: dropout that is configured and switched off on purpose, by eval mode.

    References: shubhamagarwal92/mmd#14.
    """
    seen = recording.modes
    # Calls of several modules for one loss are not repeated.
    otherwise = seen.random or of_a_mode(pipeline.model, frozen_modules(pipeline.model))
    if seen.in_eval and seen.random:
        # A Trainer calls train() itself before each step; a step of one's own need not.
        loaded = pipeline.trainer is None and bool(getattr(pipeline.config, "_name_or_path", ""))
        yield Finding(
            f"{seen.in_eval} of {seen.forwards} training passes run the model in eval mode: its "
            f"dropout is never on ({len(seen.random)} modules act otherwise in training mode)",
            observed=seen.in_eval,
            expected=0,
            where=", ".join(seen.random[:3]),
            cause="model.eval() was called, by an evaluation or by from_pretrained, and no "
            "model.train() after it",
            fix="call model.train() at the beginning of each training step",
            severity=Severity.WARNING if loaded else Severity.FAILURE,
        )
    elif pipeline.captured is not None and pipeline.captured.left_in_eval and otherwise:
        yield Finding(
            f"the loop calls eval() of the model at {pipeline.captured.left_in_eval}, and nothing "
            "in it calls train(): from there on dropout is off and batch norms stay as they are "
            f"({len(otherwise)} modules act otherwise in training mode)",
            observed=pipeline.captured.left_in_eval,
            expected="train() behind each eval()",
            where=pipeline.captured.left_in_eval,
            cause="model.train() is called once, before the loop, or never",
            fix="call model.train() at the beginning of each epoch",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{seen.in_eval} of {seen.forwards} training passes ran with no module in training mode; "
        f"{len(seen.random)} modules act otherwise there",
        seen.in_eval,
        0,
    )
