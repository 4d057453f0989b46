"""TS534 loss.settings_take_effect."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip


@check("TS534", "loss.settings_take_effect", cost=Cost.STEP, rules_out="settings without effect")
def settings_take_effect(recording: Recording) -> Iterator[Measured | Finding]:
    """Settings of the loss change the loss.

    What it checks: ``label_smoothing_factor``, and of TRL's Trainers ``label_smoothing``,
    ``rpo_alpha``, ``ld_alpha``, ``simpo_gamma`` and ``cpo_alpha``, where they are not at their
    defaults: whether loss or gradient of the first micro-batch are others without them.

    Why it matters: a ``compute_loss`` of your own replaces the one that smooths the labels, a
    ``loss_type`` may know nothing of a setting, and question answering has no ``labels`` to be
    smoothed. The run is configured in one way and trained in another, and a search over such a
    setting compares noise.

    How it is measured: exact. The micro-batch is asked twice with the same random numbers, with the
    setting and without it.

    How to fix: compute the loss with what the Trainer made of the setting, or leave it out::

        # bad: label_smoothing_factor=0.1 beside it
        loss = cross_entropy(outputs.logits, inputs["labels"])
        # good
        loss = self.label_smoother(outputs, inputs)

    Known false alarms: a ``compute_loss`` that took the setting over when it was built, hence a
    warning.

    References: huggingface/transformers#13255.
    """
    settings = recording.settings
    if not settings:
        raise Skip(recording.own.reason or "every setting of the loss is at its default")
    for one in settings:
        if not one.effective:
            yield Finding(
                f"{one.name} = {one.value} changes neither the loss nor the gradient",
                observed=0.0,
                where=one.name,
                cause="the loss that is computed does not know the setting: compute_loss is a "
                "user's own, or this loss has no use for it",
                fix=f"apply it in compute_loss, or leave it at {one.default}",
                severity=Severity.WARNING,
            )
    effective = [one.name for one in settings if one.effective]
    yield Measured(
        f"{len(effective)} of {len(settings)} settings of the loss change it",
        {one.name: one.effective for one in settings},
    )
