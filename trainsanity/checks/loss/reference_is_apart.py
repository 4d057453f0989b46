"""TS513 loss.reference_is_apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.policy_passes import inner, references_of
from trainsanity.objectives.preference import POLICY_TRAINERS, PREFERENCE_TRAINERS, of_classes
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS513", "loss.reference_is_apart", rules_out="reference that moves")
def reference_is_apart(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """The reference shares no trainable tensor with the policy.

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
    trained = {
        _place(p): name for name, p in policy.named_parameters() if p.requires_grad and p.numel()
    }
    optimizer = pipeline.optimizer or getattr(pipeline.trainer, "optimizer", None)
    held = {
        _place(p): "the optimizer"
        for group in getattr(optimizer, "param_groups", ())
        for p in group["params"]
        if p.numel()
    }
    shared: dict[str, list[str]] = {}
    for called, model in named.items():
        for name, p in model.named_parameters():
            if p.numel() and _place(p) in trained | held:
                shared.setdefault(called, []).append(name)
    beside: list[str] = []
    if not named:
        if not of_classes(pipeline.trainer, PREFERENCE_TRAINERS + POLICY_TRAINERS):
            raise Skip("nothing is called a reference")
        if not hasattr(policy, "peft_config") or _needs_no_reference(pipeline.trainer):
            raise Skip("there is no reference model beside the policy")
        beside = _beside_the_adapter(policy)
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
            f"{len(beside)} tensors outside of the adapter are trained: with the adapter turned off "
            "the reference still has them, and moves with the policy",
            observed=len(beside),
            expected=0,
            where=", ".join(beside[:3]),
            cause="requires_grad was set on parts of the base model",
            fix="name them in LoraConfig(modules_to_save=[...]), which keeps the original as well",
        )
    count = sum(map(len, shared.values())) + len(beside)
    yield Measured(
        f"{count} of {len(trained)} trainable tensors are the reference's, too "
        f"({', '.join(named) or 'the adapter turned off'})",
        count,
        0,
    )


def _place(p: Any) -> Any:
    storage = p.untyped_storage() if hasattr(p, "untyped_storage") else None
    address = storage.data_ptr() if storage is not None else 0
    return (address, p.storage_offset()) if address else id(p)


def _needs_no_reference(trainer: Any) -> bool:
    """Return whether the Trainer compares with no reference at all."""
    if of_classes(trainer, ("ORPOTrainer", "CPOTrainer")):
        return True
    if getattr(trainer, "precompute_ref_logps", False):
        return True
    return of_classes(trainer, POLICY_TRAINERS) and not getattr(trainer, "beta", 0.0)


def _beside_the_adapter(policy: Any) -> list[str]:
    """Return trainable parameters that stay in use when the adapter is turned off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    kinds: list[Any] = [BaseTunerLayer]
    try:
        from peft.utils.other import AuxiliaryTrainingWrapper as Wrapper
    except ImportError:
        from peft.utils.other import ModulesToSaveWrapper as Wrapper
    kinds.append(Wrapper)
    inside: set[int] = set()
    for module in policy.modules():
        if isinstance(module, tuple(kinds)):
            base = getattr(module, "base_layer", None) or getattr(module, "original_module", None)
            originals = {id(p) for p in base.parameters()} if base is not None else set()
            inside |= {id(p) for p in module.parameters()} - originals
    # Prompt tuning and the like keep theirs beside the layers.
    own = ("prompt_encoder", "lora_", "adapter_", "ia3_", "vera_")
    return [
        name
        for name, p in policy.named_parameters()
        if p.requires_grad and id(p) not in inside and not any(part in name for part in own)
    ]
