"""What a model's config and modules say of its outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.objectives.base import CAUSAL_LM
from trainsanity.objectives.contrastive import RERANKING

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def causal_claim(pipeline: Pipeline) -> str:
    """Return what says that later tokens do not matter: the task, or the attention modules."""
    config = pipeline.config
    if getattr(config, "is_causal", None) is False:  # transformers' switch for encoders made of it
        return ""
    if objective_of(pipeline).name == CAUSAL_LM:
        return "the task is language modelling"
    flags = [
        getattr(module, "is_causal", None) is True
        for module in pipeline.model.modules()
        if hasattr(module, "is_causal")
    ]
    return "its attention modules have is_causal=True" if flags and all(flags) else ""


def promised_width(pipeline: Pipeline) -> int | None:
    """Return how many outputs the config promises; None where the task has no such number."""
    config = pipeline.config
    if objective_of(pipeline).name == CAUSAL_LM:
        return getattr(config, "vocab_size", None)
    # Every config has a num_labels, also that of a masked language model.
    objective = objective_of(pipeline)
    known = objective.known or objective.name == RERANKING
    counted = known and not objective.of_words and not objective.of_choices
    return getattr(config, "num_labels", None) if counted else None


def only_decodes(config: Any) -> bool:
    """Return whether no token of a model of this config sees a later one, whatever its head is.

    Transformers has models of it that continue texts, and none that fill gaps in them.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    kind = type(config)
    return (
        kind in AutoModelForCausalLM._model_mapping
        and kind not in AutoModelForMaskedLM._model_mapping
        and getattr(config, "is_causal", None) is not False
        and getattr(config, "attn_type", None) != "bi"
        and not getattr(config, "is_encoder_decoder", False)
    )
