"""TS903 loop.save_load_equal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.maths.tolerances import logits_difference, within
from trainsanity.measurements.runs.saved import Saved
from trainsanity.types import Cost, Finding, Measured, Skip


@check(
    "TS903",
    "loop.save_load_equal",
    cost=Cost.RUN,
    needs=("trainer",),
    rules_out="what is saved",
)
def save_load_equal(saved: Saved) -> Iterator[Measured | Finding]:
    """The saved model, loaded again, gives the same logits.

    What it checks: ``trainer.save_model()`` into an empty folder, ``from_pretrained`` of the same
    class from it (for adapters: the base as it was before training, and ``PeftModel`` on it), and
    the logits of both for the rows of the first micro-batch.

    Why it matters: a head that no adapter file holds, or a part that a wrapper does not save, is
    initialised at random when the model is loaded.  Training and evaluation look well, and the
    model that is used guesses.

    How it is measured: the trainable weights are moved a little first, as training does, so that
    untrained and trained ones can be told apart; they are restored afterwards.  Both models run in
    evaluation mode.  In one dtype on one device the logits are equal; the allowed difference is
    four times that between two passes of one model, and no less than the dtype's own precision.

    How to fix: name what is new in ``LoraConfig(modules_to_save=[...])``; save the whole model, by
    the Trainer's own ``save_model``.

    A model of one's own without ``from_pretrained`` is skipped: loop.load_is_whole loads it as the
    Trainer does.

    Known false alarms: a model whose constructor needs arguments that its config does not hold.

    References: huggingface/peft#310, #577, #1070.
    """
    if saved.unknown:
        raise Skip(saved.unknown)
    files = ", ".join(saved.files[:8]) or "nothing"
    allowed = logits_difference(saved.dtype, saved.noise, saved.size) if saved.dtype else 0.0
    if saved.error:
        yield Finding(
            f"what save_model wrote cannot be used: {saved.error}",
            observed=saved.error,
            expected="a model",
            where=f"saved: {files}",
            cause="the folder lacks what from_pretrained needs",
            fix="let save_model write the whole model with its config: super().save_model()",
        )
    elif saved.missing:
        yield Finding(
            f"{len(saved.missing)} parameters are not in what save_model wrote; they are "
            "initialised at random when the model is loaded",
            observed=len(saved.missing),
            expected=0,
            where=", ".join(saved.missing[:3]),
            cause="only a part of the model is saved, or under other names",
            fix="save trainer.model itself, not a module inside it",
        )
    elif not within(saved.difference, allowed):
        yield Finding(
            f"the loaded model's logits differ from the saved one's by up to "
            f"{saved.difference:.3g}, of logits up to {saved.size:.3g}",
            observed=saved.difference,
            expected=allowed,
            where=f"saved: {files}",
            cause="something that is trained is not saved, most often the new head",
            fix="name it in LoraConfig(modules_to_save=[...]), or save the whole state dict",
        )
    # Without a loaded model there is no difference; the finding says why.
    known = math.isfinite(saved.difference)
    yield Measured(
        f"logits of {saved.rows} rows, saved model against loaded one: greatest absolute "
        f"difference {f'{saved.difference:.3g}' if known else 'unknown'} (up to {allowed:.2g} "
        f"allowed); parameters missing from the files: {len(saved.missing)}",
        {"difference": saved.difference, "missing": len(saved.missing)},
        {"difference": allowed, "missing": 0},
    )
