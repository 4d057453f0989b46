"""TS436 model.tied_weights_stay_tied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.model.adapter_base import TiedWeights
from trainsanity.pipeline import is_adapted
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS436", "model.tied_weights_stay_tied", rules_out="tied weights")
def tied_weights_stay_tied(
    pipeline: Pipeline, tied_weights: TiedWeights
) -> Iterator[Measured | Finding]:
    """Tied embeddings stay tied.

    What it checks: where `tie_word_embeddings` is set, that input and output embedding are one
    tensor; and where an adapter is trained, that they are not copied by `modules_to_save` each for
    itself, and that no adapter stands on one of them alone.

    Why it matters: copies part at the first step. Merged and saved under a config that still says
    "tied", one of them is thrown away, and the loaded model is another than the trained one.

    How it is measured: exact, by the identity of the parameters that are trained.

    How to fix: `ensure_weight_tying=True`, or `tie_word_embeddings=False` when the model is loaded.

    Bad::

        LoraConfig(modules_to_save=["embed_tokens", "lm_head"])

    Good::

        LoraConfig(modules_to_save=["embed_tokens"], ensure_weight_tying=True)

    Known false alarms: an adapter that is never merged. One that stands on the input embedding
    alone is a warning for that reason.

    References: huggingface/peft#2777, huggingface/transformers#31467.
    """
    adapted = is_adapted(pipeline.model)
    if tied_weights.apart:
        yield Finding(
            f"input and output embedding are tied by the config, and {tied_weights.apart}: they "
            "come apart at the first step"
            + ("" if tied_weights.copies else " if the adapter is merged"),
            observed=tied_weights.apart,
            expected="one tensor",
            where="input and output embedding",
            cause=tied_weights.cause,
            fix=("LoraConfig(ensure_weight_tying=True)" if adapted else "call model.tie_weights()")
            + ", or load the model with tie_word_embeddings=False",
            severity=Severity.FAILURE if tied_weights.copies else Severity.WARNING,
        )
    yield Measured(
        f"tied embeddings: {tied_weights.apart or 'no copy of one side alone'}",
        int(bool(tied_weights.apart)),
        0,
    )
