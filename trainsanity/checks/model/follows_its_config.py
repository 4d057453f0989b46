"""TS452 model.follows_its_config."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.late_settings import LateSettings
from trainsanity.types import Finding, Measured, Severity


@check("TS452", "model.follows_its_config", rules_out="settings that come too late")
def follows_its_config(late_settings: LateSettings) -> Iterator[Measured | Finding]:
    """The model's modules were made with the settings that its config has.

    What it checks: settings in which ``model.config`` differs from the config.json of the
    checkpoint that it names, against what the modules hold of them: the probability of a dropout,
    the weight of a loss, the size of a window.

    Why it matters: a module reads the config once, when it is made. A dropout that is raised in
    ``model.config`` afterwards stays as it was; nothing says so, and the saved config tells that
    the model was trained with it.

    How it is measured: the model's class is built without memory from its config as it is, and
    with the checkpoint's value of each setting that differs. A setting is too late where the two
    hold other values and all of the model's own modules that would change hold the checkpoint's.
    What a module was given by hand is neither, and passes; so do settings that are read in the
    forward. Ids of tokens are left out: many set them late, and embeddings compute as before.

    It is a warning: the model is trained as its checkpoint was, and only what was asked for in
    addition has no effect.

    How to fix: give the settings to from_pretrained::

        # bad
        model = AutoModelForSequenceClassification.from_pretrained(name)
        model.config.hidden_dropout_prob = 0.3
        # good
        model = AutoModelForSequenceClassification.from_pretrained(name, hidden_dropout_prob=0.3)

    Known false alarms: none known.

    References: huggingface/transformers#14914.
    """
    for one in late_settings.late:
        count, first = len(one.modules), one.modules[0]
        yield Finding(
            f"config.{one.name} is {one.here}, and {count} "
            f"module{' was' if count == 1 else 's were'} made with {one.there}: "
            f"{first or 'the model'}.{one.attribute} is {one.held}",
            observed=one.there,
            expected=one.here,
            where=f"model.config.{one.name}",
            cause="it was set after the model had been made, which has read it by then",
            fix=f"from_pretrained({late_settings.source!r}, {one.name}={one.here!r})",
            severity=Severity.WARNING,
        )
    changed = ", ".join(late_settings.changed) or "none"
    yield Measured(
        f"settings other than in {late_settings.source}: {changed}; "
        f"{len(late_settings.late)} of them are in no module that would change by them",
        len(late_settings.late),
        0,
    )
