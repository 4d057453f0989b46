"""TS513 loss.reference_is_apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.passes import inner
from trainsanity.measurements.step.policy_passes import references_of
from trainsanity.measurements.step.reference_tensors import (
    beside_the_adapter,
    shared_with_reference,
    trained_tensors,
)
from trainsanity.objectives.preference import POLICY_TRAINERS, PREFERENCE_TRAINERS, of_classes
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS513", "loss.reference_is_apart", rules_out="reference that moves")
def reference_is_apart(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """The reference model shares no trainable tensor with the policy.

    What it checks: the memory of every parameter that is trained, or that the optimizer holds,
    against the parameters of each model that is called a reference; for an adapter of TRL's
    Trainers, whose reference is the model with the adapter off, whether anything beside the adapter
    is trained.

    Why it matters: a reference that moves with the policy holds nothing back: rewards and margins
    stay 0 for the whole run, and the policy drifts as far as it likes.

    How it is measured: exact, by storage.

    How to fix: bad: model = get_peft_model(base, lora), ref_model=base: peft builds the adapter
    into base itself; or ref_model = model. Good:

        reference = copy.deepcopy(model).eval().requires_grad_(False)

    or ref_model=None with an adapter.

    Known false alarms: a reference that is meant to be trained.

    References: huggingface/peft#940.
    """
    policy = inner(pipeline.model)
    named = references_of(pipeline.trainer, pipeline.train_step)
    shared = shared_with_reference(pipeline)
    beside: list[str] = []
    if not named:
        if not of_classes(pipeline.trainer, PREFERENCE_TRAINERS + POLICY_TRAINERS):
            raise Skip("nothing is called a reference")
        if not hasattr(policy, "peft_config") or _needs_no_reference(pipeline.trainer):
            raise Skip("there is no reference model beside the policy")
        beside = beside_the_adapter(policy)
    for called, names in shared.items():
        whole = named[called] is policy
        yield Finding(
            f"{called} is the policy itself: every step moves it, too"
            if whole
            else f"{called} shares {len(names)} trainable tensors with the policy: "
            "every step moves the reference, too",
            observed=len(names),
            expected=0,
            where=", ".join(names[:3]),
            cause="one model object under two names"
            if whole
            else "the reference's tensors are the same as the policy's: get_peft_model builds the "
            "adapter into the model it is given, and a shallow copy keeps the parameters",
            fix="load the reference anew or copy.deepcopy the model before the adapter is added; "
            "with an adapter, ref_model=None",
        )
    if beside:
        yield Finding(
            f"{len(beside)} tensors outside of the adapter are trained: with the adapter turned "
            "off the reference still has them, and moves with the policy",
            observed=len(beside),
            expected=0,
            where=", ".join(beside[:3]),
            cause="requires_grad was set on parts of the base model",
            fix="name them in LoraConfig(modules_to_save=[...]), which keeps the original as well",
        )
    count = sum(map(len, shared.values())) + len(beside)
    yield Measured(
        f"{count} of {len(trained_tensors(pipeline))} trainable tensors are the reference's, too "
        f"({', '.join(named) or 'the adapter turned off'})",
        count,
        0,
    )


def _needs_no_reference(trainer: Any) -> bool:
    """Return whether the Trainer compares with no reference at all."""
    if of_classes(trainer, ("ORPOTrainer", "CPOTrainer")):
        return True
    if getattr(trainer, "precompute_ref_logps", False):
        return True
    return of_classes(trainer, POLICY_TRAINERS) and not getattr(trainer, "beta", 0.0)
