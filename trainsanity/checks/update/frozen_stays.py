"""TS706 update.frozen_stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.pipeline import is_adapted
from trainsanity.repairs import repair
from trainsanity.types import Cost, Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 0.5
"""Part of the model that has to be frozen in front of what is trained before its dropout is worth a
word: below, it is the frozen embeddings of a model that is trained.  A last resort."""


@check(
    "TS706",
    "update.frozen_stays",
    cost=Cost.STEP,
    rules_out="frozen parts",
)
def frozen_stays(pipeline: Pipeline, recording: Recording) -> Iterator[Measured | Finding]:
    """Frozen modules compute the same after a step as before it.

    What it checks: the buffers of modules without a trainable parameter, such as the running mean
    and variance of a batch norm, before and after the recorded steps; and whether dropout is on in
    a frozen part that has nothing trainable in front of it.

    Why it matters: ``requires_grad_(False)`` freezes parameters and nothing else.  A batch norm in
    training mode goes on following the data: frozen features are others after each step, and what
    is saved is not the pretrained model any more.  Dropout in a frozen encoder gives the head
    features that it will not see in use, and no layer can adapt to it.

    How it is measured: exact, by hashes of the buffers that are saved with the weights, on either
    side of the steps that the user's own code takes.  In a script's own loop moving statistics are
    a warning: a model that is saved and used as a whole has those that its head was trained on, and
    what such a loop saves is not known.  With adapters, which are saved without the buffers of the
    model below them, they are a failure there, too.  Dropout is a warning, where a frozen module
    with at least half of the parameters gives outputs that need no gradient, since some use it to
    augment features.

    How to fix: keep frozen modules in eval mode::

        # bad
        model.backbone.requires_grad_(False)
        # good, and again after each model.train()
        model.backbone.requires_grad_(False)
        model.backbone.eval()

    In a Trainer, override the model's ``train(mode)`` and call ``self.backbone.eval()`` there.

    Known false alarms: batch statistics that are meant to adapt to new data while the weights stay
    (AdaBN).

    References: lightly-ai/lightly#1438, nickgkan/butd_detr#8; ``torch.nn.BatchNorm1d``.
    """
    seen = recording.modes
    if seen.moved:
        yield Finding(
            f"{len(seen.moved)} of {seen.frozen_buffers} buffers of frozen modules move in "
            f"training: their running statistics follow the data",
            observed=len(seen.moved),
            expected=0,
            where=", ".join(seen.moved[:3]),
            cause="requires_grad is False and the module is in training mode: a batch norm updates "
            "its running mean and variance in each forward pass" + _whole(pipeline),
            fix="put frozen modules into eval mode after each model.train()",
            repairs=(repair("frozen modules in eval mode", "frozen_in_eval"),),
            severity=_severity(pipeline),
        )
    if seen.dropping and seen.dropping_share >= MOST and not is_adapted(pipeline.model):
        yield Finding(
            f"dropout is active in a frozen part of the model ({', '.join(seen.dropping[:3])}, "
            f"{seen.dropping_share:.0%} of the parameters): it is in train mode",
            observed=seen.dropping[:8],
            expected=[],
            where=seen.dropping[0],
            cause="requires_grad is False, and model.train() puts all modules into training mode",
            fix="put frozen modules into eval mode after each model.train()",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{len(seen.moved)} of {seen.frozen_buffers} buffers of frozen modules moved in "
        f"{seen.forwards} training passes, {len(seen.dropping)} frozen modules dropped features "
        "out",
        len(seen.moved),
        0,
    )


def _severity(pipeline: Pipeline) -> Severity:
    """Return how bad it is that frozen statistics move.

    Tried with a small network whose head alone is trained, on pictures of another brightness and
    contrast, in batches of 2 to 64: with the statistics that moved 99.8 to 100 % are right, with
    frozen ones 97.7 to 100 %; the head that was trained beside moving ones gets 22 to 71 % right
    on the pretrained body.
    """
    whole = pipeline.captured is not None and not is_adapted(pipeline.model)
    return Severity.WARNING if whole else Severity.FAILURE


def _whole(pipeline: Pipeline) -> str:
    """Return where that does harm, if it may do none."""
    if _severity(pipeline) is Severity.FAILURE:
        return ""
    return "; harmless where the model is saved and used whole, not where its head is saved alone"
