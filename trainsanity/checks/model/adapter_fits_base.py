"""TS434 model.adapter_fits_base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.engine.session import Session
from trainsanity.measurements.model.adapters import Adapters
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.model.adapter_base import AdapterBase
    from trainsanity.pipeline import Pipeline

MISSING = "Found missing adapter keys while loading the checkpoint"
"""PEFT's warning when a saved adapter lacks tensors that the model's adapter has."""


@check("TS434", "model.adapter_fits_base", rules_out="adapter's base")
def adapter_fits_base(pipeline: Pipeline, adapters: Adapters) -> Iterator[Measured | Finding]:
    """A loaded adapter has all its weights, and the base model that it was trained for.

    What it checks: that PEFT did not warn of missing keys while the pipeline was built; and, where
    the adapter's configuration names another checkpoint than the model was loaded from, that the
    weights under the adapter are the same in both.

    Why it matters: an adapter none of whose tensors finds its place is a new one: B is zero, and
    training begins at the base. One that is put on a model into which it was merged before counts
    twice.

    How it is measured: the library's own warning, which is heard whatever filters are set; and
    exact, the base weights of up to four adapted layers against the files of
    `base_model_name_or_path`, if they are on this machine.

    How to fix: rename the adapter's tensors, or load it with the version that saved it; load it
    upon the base that it was trained for.

    Bad::

        PeftModel.from_pretrained(load("merged"), "adapter", is_trainable=True)

    Good::

        PeftModel.from_pretrained(load("base"), "adapter", is_trainable=True)

    Known false alarms: a base that is quantized, or was trained on, since the adapter was.

    References: huggingface/transformers#38927, huggingface/peft#1381.
    """
    missing = [one for one in pipeline.library_warnings if MISSING in one.text]
    if missing:
        count = missing[0].text.count("lora_") or missing[0].text.count("'") // 2
        yield Finding(
            "tensors of the adapter are missing in the file that it was loaded from, as PEFT "
            f"warned ({missing[0].text[:160]}...): they are as they were drawn",
            observed=count,
            expected=0,
            cause="the saved names are those of another version or of another wrapping of the "
            "model, and none of them found its place",
            fix="compare the names in adapter_model.safetensors with those of the model, and "
            "rename them or load the adapter with the version that saved it",
        )
    base = _base(pipeline)
    if base is not None and base.differ:
        name, far = max(base.differ.items(), key=lambda item: item[1])
        yield Finding(
            f"the adapter was trained upon {base.named!r} and lies upon {base.loaded!r}, whose "
            f"weights differ in {len(base.differ)} of {base.compared} adapted layers (by {far:.3g} "
            "at the most): if it was merged into that model already, it counts twice",
            observed=len(base.differ),
            expected=0,
            where=name,
            cause="the adapter was loaded upon a merged, or another, checkpoint",
            fix=f"load it upon {base.named!r}, or train a new adapter on the merged model",
        )
    compared = (
        "its base is the model's own checkpoint, or not at hand"
        if base is None
        else f"{len(base.differ)} of {base.compared} layers under it differ from its base's file"
    )
    yield Measured(
        f"PEFT warned {len(missing)} times of missing keys of the adapter "
        f"({', '.join(adapters.active) or '0 active'}); {compared}",
        len(missing) + len(base.differ if base else ()),
        0,
    )


def _base(pipeline: Pipeline) -> AdapterBase | None:
    try:
        found: AdapterBase = Session.of(pipeline).measurements.get("adapter_base")
    except Skip:
        return None
    return found
