"""TS431 model.adapter_can_move."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.adapters import Adapters
from trainsanity.repairs import repair
from trainsanity.types import Finding, Measured

REASONS = {
    "is turned off": (
        "the adapter was disabled, by disable_adapter_layers() or the like",
        "call model.enable_adapter_layers() before training",
    ),
    "is merged into its base": (
        "merge_adapter() was called: the forward uses the merged weight, and the adapter has no "
        "part in it",
        "call model.unmerge_adapter() before training",
    ),
    "is scaled by 0": (
        "lora_alpha is 0: the adapter is multiplied by alpha / r",
        "set lora_alpha; PEFT's own is 8, and r or 2 r is common",
    ),
    "has a dropout of 1": (
        "lora_dropout is 1: everything that goes into the adapter is dropped",
        "set lora_dropout to what was meant: 0.1 is ten percent",
    ),
    "has zeros on both sides": (
        "an initialisation of the whole model ran after the adapter was added, or "
        "init_lora_weights does not fit",
        "add the adapter last; call reset_lora_parameters, or leave init_lora_weights at True",
    ),
}
"""Cause and fix of each reason."""


@check("TS431", "model.adapter_can_move", rules_out="adapter", stops=True)
def adapter_can_move(adapters: Adapters) -> Iterator[Measured | Finding]:
    """The adapter is active, trainable and not zero on both sides.

    What it checks: that PEFT's active adapters are trainable and take part in the forward with a
    factor that is not zero: not loaded for inference, not disabled, not merged, not scaled by 0,
    no dropout of 1, not zeros on both sides; and that what is trainable is active.

    Why it matters: each of these leaves a model that is trained for hours and changed by nothing.
    With A = 0 and B = 0 each side's gradient is a multiple of the other, and both stay at zero
    for good; gradient checkpointing hides that nothing requires a gradient.

    How it is measured: exact, from the adapters' layers. A LoRA whose B alone is zero, as LoRA
    begins, moves; so does one whose A alone is.

    How to fix: what the finding names.

    Bad::

        model = PeftModel.from_pretrained(base, "my-adapter")

    Good::

        model = PeftModel.from_pretrained(base, "my-adapter", is_trainable=True)

    Known false alarms: none known; an adapter that rests on purpose is not active.

    References: huggingface/peft#282, huggingface/trl#3926, nvidia-cosmos/cosmos-predict2.5#15,
    invergent-ai/surogate#173.
    """
    names = ", ".join(adapters.active) or "none"
    own = adapters.trainable + adapters.frozen
    if own and not adapters.trainable:
        other = adapters.elsewhere
        yield Finding(
            f"nothing of the active adapter ({names}) is trainable: it cannot move"
            + (f", and {other} trainable tensors are another adapter's" if other else ""),
            observed=0,
            expected=f"some of {own} tensors",
            where=names,
            cause="another adapter than the trained one is active"
            if other
            else "it was loaded for inference, or everything was frozen after it was added",
            fix="model.set_adapter(NAME) makes one active and trainable"
            if other
            else "PeftModel.from_pretrained(..., is_trainable=True), and freeze the base before "
            "the adapter is added",
            repairs=(repair("requires_grad_(True) on the active adapter", "adapter_trainable"),),
        )
    for why, layers in adapters.still.items():
        if len(layers) < adapters.layers:
            continue  # rank_pattern and alpha_pattern may leave single layers out
        cause, fix = REASONS[why]
        yield Finding(
            f"the active adapter ({names}) {why} in all of its {len(layers)} layers: its gradient "
            "is zero, and it cannot move",
            observed=len(layers),
            expected=0,
            where=layers[0],
            cause=cause,
            fix=fix,
        )
    still = sum(len(layers) for layers in adapters.still.values())
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(adapters.kinds.items()))
    yield Measured(
        f"{adapters.trainable} of {own} tensors of the active adapter ({names}) are trainable; "
        f"{still} of its {adapters.layers} layers ({kinds or 'no layer'}) cannot move",
        still,
        0,
    )
