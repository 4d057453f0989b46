"""TS432 model.adapters_are_not_nested."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.model.adapters import Adapters
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SECOND = "modify a model with PEFT for a second time"
"""PEFT's warning when a model that has adapters' layers is wrapped again."""


@check("TS432", "model.adapters_are_not_nested", rules_out="nested adapters")
def adapters_are_not_nested(pipeline: Pipeline, adapters: Adapters) -> Iterator[Measured | Finding]:
    """PEFT wraps the model once.

    What it checks: that no adapter lies inside another, and that PEFT did not warn of being called
    on a model for a second time while the pipeline was built.

    Why it matters: the second `get_peft_model` makes the weights of an adapter of the same name
    anew: what was trained before is gone, and training begins at the base model. What is saved has
    the names of an adapter in an adapter, and fits no model.

    How it is measured: exact, from the modules; and from the library's own warning, which is heard
    whatever filters are set.

    How to fix: merge the first adapter and load the merged model; or train it on; or add a second
    one under a name of its own.

    Bad::

        model = PeftModel.from_pretrained(base, "sft-adapter")
        trainer = DPOTrainer(get_peft_model(model, LoraConfig(...)), ...)

    Good::

        model = PeftModel.from_pretrained(base, "sft-adapter").merge_and_unload()
        trainer = DPOTrainer(model, peft_config=LoraConfig(...), ...)

    Known false alarms: none known.

    References: huggingface/trl#4713.
    """
    said = [one for one in pipeline.library_warnings if SECOND in one.text]
    if adapters.nested:
        yield Finding(
            f"the model is wrapped by PEFT twice: an adapter lies inside another, at "
            f"{adapters.nested[0]}; the second one has made the first one's weights anew if their "
            "names are the same",
            observed=len(adapters.nested),
            expected=0,
            where=adapters.nested[0],
            cause="get_peft_model, or a Trainer's peft_config, on a model that has an adapter",
            fix="merge the first one (merge_and_unload) and go on with the merged model, or train "
            "it on without a second get_peft_model",
        )
    elif said:
        yield Finding(
            f"the model was wrapped by PEFT a second time: an adapter of the same name was made "
            f"anew, as {said[0].library} warned",
            observed=1,
            expected=0,
            cause="get_peft_model on a model whose layers have an adapter already",
            fix="call unload() or merge_and_unload() before, and use the model that it returns",
        )
    yield Measured(
        f"{len(adapters.names)} adapters; {len(adapters.nested)} lie inside another, and PEFT "
        f"warned {len(said)} times of a second wrap",
        len(adapters.nested) + len(said),
        0,
    )
