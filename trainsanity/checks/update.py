"""TS7: what the optimizer does to the weights, and what their dtype lets through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..measurements.origin import Origin
from ..measurements.recording import Recording
from ..registry import check
from ..types import Cost, Finding, Seen, Skip

if TYPE_CHECKING:
    from ..pipeline import Pipeline

HALF = 0.5
"""Share of the elements with a gradient that must move at the peak rate.  A definition and no
measurement: an element keeps its update or loses all of it, and below a half more of them lose it
than keep it.  What is seen lies far on both sides (float32 0.99 and more, bfloat16 weights at 1e-5
0.11 to 0.15 on an H100), so that no verdict there hangs on it."""


@check(
    "TS701",
    "update.optimizer_holds_trainable",
    cost=Cost.STEP,
    acquits="optimizer",
)
def optimizer_holds_trainable(recording: Recording) -> Iterator[Seen | Finding]:
    """The optimizer holds exactly the parameters that are to be trained.

    What it checks: the tensors in the optimizer's groups against the model's parameters with
    ``requires_grad``, by identity.

    Why it matters: an optimizer that was built before the head was replaced, or before layers were
    unfrozen, goes on stepping tensors that the model no longer uses.  The loss moves a little,
    because the rest of the model learns around it.

    How it is measured: exact, at the recorded step.

    How to fix: build the optimizer last, or leave it to the Trainer.

    Known false alarms: none known; a tensor that is frozen and held is not stepped, and passes.

    References: huggingface/accelerate#2665.
    """
    update = recording.update
    trainable = [p for p in update.parameters if p.trainable]
    lost = [p for p in trainable if not p.held]
    if lost or update.strangers:
        held = f"{len(trainable) - len(lost)} of {len(trainable)} trainable tensors"
        strange = (
            f" and {update.strangers} elements that the model does not have"
            if update.strangers
            else ""
        )
        yield Finding(
            f"the optimizer holds {held}{strange}",
            observed=len(trainable) - len(lost),
            expected=len(trainable),
            where=", ".join(p.name for p in lost[:3]) or "the optimizer's groups",
            cause="the optimizer was built before the model was changed",
            fix="build the optimizer after the last change to the model, or let the Trainer do it",
        )
    yield Seen(f"{update.optimizer} holds {len(trainable)} of {len(trainable)} trainable tensors",
               len(trainable), len(trainable))  # fmt: skip


@check(
    "TS702",
    "update.survives_rounding",
    cost=Cost.STEP,
    requires=("update.optimizer_holds_trainable", "gradient.finite"),
    acquits="precision",
)
def survives_rounding(recording: Recording) -> Iterator[Seen | Finding]:
    """An update at the peak learning rate changes most of the weights that it is meant to change.

    What it checks: of the elements with a gradient, the share that moves in a step at the peak
    rate.

    Why it matters: a weight moves only if the update is at least half a unit in its last place.
    Weights in bfloat16 have 8 significant bits: at a rate of 1e-5 almost every update of AdamW is
    rounded away, and a warm-up below the peak moves next to nothing.  The loss looks like a model
    that learns slowly.

    How it is measured: during the recorded step the user's own optimizer steps once more with the
    same gradients at the peak rate of the run, elements are compared, and the step is taken back;
    the same in the middle of the warm-up as it is configured.  Told beside it is what the dtype
    alone predicts: the share whose half unit in the last place is at most the rate, the size of
    AdamW's first updates.  Less than half at the peak is a failure; see HALF for the bound's
    origin.

    How to fix: keep the trainable weights in float32, ``from_pretrained(..., dtype=torch.float32)``
    with ``bf16=True`` in the arguments (transformers 5 loads the checkpoint's dtype by default).

    Known false alarms: optimizers that keep float32 master weights of their own, or round at
    random, move fewer elements per step and lose nothing on average.

    References: huggingface/transformers#42805, huggingface/trl#4770, pytorch/torchtune#2254.
    """
    update = recording.update
    touched = sum(p.with_gradient for p in update.parameters)
    if not touched:
        raise Skip("no element has a gradient, so none could move")
    *earlier, peak = update.trials
    share = peak.moved()
    shares = {
        dtype: {"moved": round(row[1] / row[0], 4), "predicted": round(row[2] / row[0], 4)}
        for dtype, row in peak.shares.items()
        if row[0]
    }
    told = "; ".join(
        f"{dtype}: {row['moved']:.2%} (predicted {row['predicted']:.2%})"
        for dtype, row in shares.items()
    )
    for trial in earlier:
        told += f"; in the middle of the warm-up, at {trial.rate:.3g}, {trial.moved():.2%}"
    rates = [update.rate, *(trial.rate for trial in update.trials)]
    if not (share >= HALF and all(map(math.isfinite, rates))):
        coarse = min(shares, key=lambda dtype: shares[dtype]["moved"], default="none")
        yield Finding(
            f"a step at the peak learning rate {update.rate:g} changes {share:.2%} of the "
            f"{touched:,} elements with a gradient ({told})",
            observed=shares,
            expected=f"at least {HALF:.0%}",
            where=f"trainable weights in {coarse}",
            cause=f"the update is less than half a unit in the last place of most {coarse} weights",
            fix="load the model with dtype=torch.float32 and train with bf16=True",
        )
    yield Seen(f"at {update.rate:g} {share:.2%} of the elements with a gradient move ({told})",
               shares, f"at least {HALF:.0%}")  # fmt: skip


@check(
    "TS703",
    "update.moves_the_right_ones",
    cost=Cost.STEP,
    requires=("update.survives_rounding",),
    acquits="optimizer",
)
def moves_the_right_ones(recording: Recording) -> Iterator[Seen | Finding]:
    """Trainable parameters move, frozen ones stay.

    What it checks: that no parameter without ``requires_grad`` changed during the recorded step,
    and that each trainable one with a gradient, and in a dtype that lets it, has elements that move
    at the peak rate.

    Why it matters: a group with a learning rate of zero, or code that writes to frozen weights,
    trains another model than the one that was configured.

    How it is measured: hashes of the frozen weights before and after the step, and the trial step
    of update.survives_rounding.  Exact.

    How to fix: look for the parameter group, or the callback, that owns the named parameter.

    Known false alarms: a schedule of its own that keeps a group at zero for the whole run.

    References: huggingface/peft#310.
    """
    update = recording.update
    thawed = [p.name for p in update.parameters if p.changed_frozen]
    # What its dtype alone holds in place is the business of update.survives_rounding.
    stuck = [p.name for p in update.parameters if p.with_gradient and p.can_move and not p.moved]
    for names, said, cause, fix in (
        (thawed, "frozen but changed", "something writes to weights outside the optimizer",
         "find what changes them: a callback, a hook, an in-place operation"),
        (stuck, "trainable, with a gradient, and do not move",
         "their group's learning rate is zero, or the update is lost in their dtype",
         "look at the optimizer's group that holds them"),
    ):  # fmt: skip
        if names:
            yield Finding(
                f"{len(names)} parameters are {said}",
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=cause,
                fix=fix,
            )
    moving = sum(bool(p.moved) for p in update.parameters)
    frozen = sum(not p.trainable for p in update.parameters)
    yield Seen(f"{moving} parameters move, {frozen} frozen ones stay", moving, moving)


@check(
    "TS704",
    "update.decay_spares_norms",
    cost=Cost.STEP,
    acquits="optimizer",
)
def decay_spares_norms(pipeline: Pipeline, recording: Recording) -> Iterator[Seen | Finding]:
    """Weight decay spares norms and biases.

    What it checks: the ``weight_decay`` of the groups that hold parameters of normalisation layers
    and biases.

    Why it matters: decay pulls a norm's scale towards zero, where it has no business; in long runs
    that costs quality without showing in the loss for a long time.

    How it is measured: exact, by the optimizer's groups.  A normalisation is a module whose class
    says so in its name.

    How to fix: leave the groups to the Trainer, or give norms and biases a group with
    ``weight_decay=0``.

    Known false alarms: recipes that decay everything on purpose.

    References: huggingface/transformers#35927.
    """
    decayed = [
        p.name
        for p in recording.update.parameters
        if p.trainable and p.is_norm_or_bias and p.weight_decay
    ]
    if decayed:
        yield Finding(
            f"weight decay is applied to {len(decayed)} norms and biases",
            observed=len(decayed),
            expected=0,
            where=", ".join(decayed[:3]),
            cause="one parameter group for everything",
            fix="put norms and biases into a group with weight_decay=0, or let the Trainer group",
        )
    spared = sum(p.is_norm_or_bias for p in recording.update.parameters)
    yield Seen(f"{spared} norms and biases are not decayed", 0, 0)


@check("TS705", "update.new_parameters_are_kept", acquits="saving")
def new_parameters_are_kept(pipeline: Pipeline, origin: Origin) -> Iterator[Seen | Finding]:
    """What is new is trained, and what is trained is saved.

    What it checks: that every parameter which the checkpoint does not have (a new head, an
    adapter) is trainable, and that every trainable parameter is in what ``save_pretrained`` writes.

    Why it matters: a new head that an adapter's configuration froze stays random for the whole run,
    and the adapters learn around it.  One that is trained and left out of the adapter's file is
    drawn anew when the model is loaded: training looked well, and the loaded model guesses.

    How it is measured: names in the headers of the checkpoint's safetensors files; the tensors of
    the state dict that would be written, by identity.  Exact.

    How to fix: name the head in ``LoraConfig(modules_to_save=[...])``, or give the
    ``task_type`` by which PEFT knows it.

    Known false alarms: a part that is meant to stay random (a random projection).

    References: huggingface/peft#310, #577, #1070.
    """
    trainable = {name for name, p in pipeline.model.named_parameters() if p.requires_grad}
    frozen = [name for name in origin.new if name not in trainable]
    for names, said, cause in (
        (frozen, "new and frozen: it stays as it was drawn",
         "everything but the adapter was frozen, the new head with it"),
        (origin.unsaved, "trained and not saved",
         "it is no part of the adapter, and only the adapter is written"),
    ):  # fmt: skip
        if names:
            yield Finding(
                f"{names[0]} is {said}" + (f" ({len(names)} in all)" if len(names) > 1 else ""),
                observed=len(names),
                expected=0,
                where=", ".join(names[:3]),
                cause=cause,
                fix="name it in LoraConfig(modules_to_save=[...]), or give LoraConfig a task_type",
            )
    whence = (
        f"{len(origin.new)} parameters are new and trainable, "
        if origin.checkpoint or origin.new
        else "no checkpoint tells which parameters are new; "
    )
    yield Seen(
        f"{whence}all {len(trainable)} trainable ones are saved", len(trainable), len(trainable)
    )
