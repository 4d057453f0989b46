"""TS001 speed.what_is_asked_is_used."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.speed.intent import Intent
from trainsanity.types import Finding, Measured, Severity

NATIVE_BFLOAT16 = (8, 0)
"""The first compute capability with arithmetic in bfloat16 (CUDA C programming guide, table of
arithmetic instructions); older devices take bfloat16 for storage and compute in float32."""


@check("TS001", "speed.what_is_asked_is_used", rules_out="attention or dtype that is not in use")
def what_is_asked_is_used(intent: Intent) -> Iterator[Measured | Finding]:
    """Attention and dtype that are asked for are those in use.

    What it checks: whether an implementation of attention that somebody asked for by name is the
    one that the model's modules have, and whether the device computes in the 16-bit dtype of the
    run.

    Why it matters: a run with another attention, or with a dtype that the device has to imitate,
    is right and slow, and says nothing of it.

    How it is measured: asked for is what ``model_init_kwargs`` and the config name;
    ``config._attn_implementation`` counts where it names flash or flex attention, which nobody is
    given unasked.  In use is what each module of attention has been built with, or looks up when
    it is called.  A CUDA device computes in bfloat16 from compute capability 8.0 on.

    How to fix: ``from_pretrained(..., attn_implementation="flash_attention_2")``, or
    ``model.set_attn_implementation(...)``; the attribute ``config.attn_implementation`` of a model
    that has been built is read by nobody.  ``fp16=True`` on devices before Ampere.

    Known false alarms: none known.  A CPU that imitates bfloat16 is not judged: what is trained
    there is a trial.

    References: transformers, ``PreTrainedConfig._attn_implementation``; the CUDA C programming
    guide on compute capabilities.
    """
    used = intent.attention_used
    in_use = ", ".join(f"{name} in {count} modules" for name, count in used.items())
    for place, name in intent.attention.items():
        if used and not _among(name, used):
            yield Finding(
                f"{place} asks for {name} attention, and the model's modules have {in_use}",
                observed=used,
                expected=name,
                where=place,
                cause="the setting is read when the model is built, or not under this name",
                fix=f'from_pretrained(..., attn_implementation="{name}")',
                severity=Severity.WARNING,
            )
    capability = intent.capability
    imitated = capability is not None and capability < NATIVE_BFLOAT16
    if intent.sixteen_bits == "bfloat16" and capability is not None and imitated:
        yield Finding(
            f"the run computes in bfloat16, which {intent.device} imitates: compute capability "
            f"{_dotted(capability)}, and {_dotted(NATIVE_BFLOAT16)} has it",
            observed=_dotted(capability),
            expected=_dotted(NATIVE_BFLOAT16),
            where=intent.device,
            cause="devices before Ampere have float16 and no bfloat16",
            fix="fp16=True in place of bf16=True, with the weights in float32",
            severity=Severity.WARNING,
        )
    asked = ", ".join(dict.fromkeys(intent.attention.values())) or "none by name"
    yield Measured(
        f"attention asked for: {asked}; in use: {in_use or 'not seen'}; "
        f"dtype {intent.sixteen_bits or 'of 32 bits'} on {intent.device}",
        {"attention": used, "dtype": intent.sixteen_bits, "capability": _dotted(capability)},
        {"attention": intent.attention},
    )


def _among(name: str, used: dict[str, int]) -> bool:
    """Return whether it is in use; a kernel of the hub stands in for a package that is missing."""
    if name.startswith("flash"):
        return any("flash" in one for one in used)
    return name in used


def _dotted(capability: tuple[int, int] | None) -> str | None:
    return None if capability is None else ".".join(map(str, capability))
