"""TS442 model.adapter_begins_as_base."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.model.drawn_adapters import DrawnAdapters
from trainsanity.types import Finding, Measured, Severity


@check("TS442", "model.adapter_begins_as_base", rules_out="an adapter drawn at random")
def adapter_begins_as_base(drawn_adapters: DrawnAdapters) -> Iterator[Measured | Finding]:
    """A new LoRA adapter leaves the model as it was.

    What it checks: ``lora_B`` of the active adapters: zeros in a new adapter, small numbers in one
    that was trained, and neither of these in one that was drawn at random.

    Why it matters: with ``init_lora_weights=False``, which PEFT has for its own tests, both sides
    are random. Training begins from a model that is damaged in every layer, and what it learns
    first is to undo that.

    How it is measured: torch draws the weights of a new linear layer uniformly between plus and
    minus one over the root of its inputs, the rank here. All elements of ``lora_B`` times that root
    have to be other than such a draw: none 0, none above 1, and a root mean square within three
    standard errors of one over the root of 3.

    How to fix: leave ``init_lora_weights`` at True::

        # bad
        LoraConfig(r=8, init_lora_weights=False)
        # good
        LoraConfig(r=8)

    A warning: such an adapter also stands in for one that was trained, where things are tried out.

    Known false alarms: none known. PiSSA and OLoRA take from the base what they begin with, and an
    adapter that was trained has other numbers.

    References: mflux-community/mflux#739; read: peft's LoraLayer.reset_lora_parameters.
    """
    seen = drawn_adapters
    if seen.drawn:
        yield Finding(
            f"lora_B is drawn at random: {seen.elements:,} numbers, evenly from -1 to 1 over the "
            f"root of the rank; the weight of a layer changes by up to {seen.changed:.2g} of it "
            "before anything is learnt",
            observed=seen.deviation,
            expected=0.0,
            where="lora_B of the active adapters",
            cause="init_lora_weights=False: both sides of the adapter are random",
            fix="init_lora_weights=True, which sets lora_B to 0",
            severity=Severity.WARNING,
        )
    yield Measured(
        f"{seen.zeros:,} of {seen.elements:,} elements of lora_B are 0; times the root of the rank "
        f"the largest is {seen.largest:.3g}, the root mean square {seen.deviation:.3g}",
        seen.zeros,
    )
