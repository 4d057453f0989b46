"""TS419 model.decoder_starts_alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import predicting
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check(
    "TS419",
    "model.decoder_starts_alike",
    requires=("model.targets_unseen",),
    rules_out="another start of the decoder",
)
def decoder_starts_alike(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The decoder begins in training with the token that generation begins with.

    What it checks: the first of the decoder's inputs in the first step's batches against
    ``generation_config.decoder_start_token_id`` (``bos_token_id`` where that is not set).

    Why it matters: generation begins from an input that training has never shown, and nothing has
    taught the model what the first token of an answer is.

    How it is measured: exact. If no row begins with generation's start it is a failure, where the
    Trainer generates itself (``predict_with_generate``) or rows begin with ordinary tokens; where
    all begin with special tokens, and the Trainer does not generate, it is a warning: a language
    code may be given to ``generate()`` by hand.

    How to fix: let the model make decoder_input_ids of the labels, and set one start for both::

        # bad
        model.config.decoder_start_token_id = tokenizer.lang_code_to_id["de_DE"]
        # good
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id

    Known false alarms: none known.

    References: huggingface/transformers#5327, abhimishra91/transformers-tutorials#15.
    """
    import torch

    if not getattr(pipeline.config, "is_encoder_decoder", False):
        raise Skip("the model is no encoder-decoder")
    start = _start(pipeline)
    if not start:
        raise Skip("no token is set with which generation begins")
    first: list[int] = []
    for micro in batch:
        ids = predicting(pipeline.model, dict(micro.inputs)).get("decoder_input_ids")
        if not torch.is_tensor(ids) or ids.dim() != 2 or not ids.numel():
            raise Skip("the decoder's inputs are not seen")
        mask = micro.inputs.get("decoder_attention_mask")
        place = mask.argmax(1) if torch.is_tensor(mask) and mask.shape == ids.shape else None
        column = ids[:, 0] if place is None else ids.gather(1, place[:, None])[:, 0]
        first += column.tolist()
    alike = sum(token in start for token in first)
    if not alike:
        named = ", ".join(_named(pipeline, token) for token in sorted(set(first))[:3])
        special = set(getattr(pipeline.tokenizer, "all_special_ids", None) or ())
        ordinary = not set(first) <= special
        generates = bool(getattr(pipeline.args, "predict_with_generate", False))
        yield Finding(
            f"the decoder begins with {named} in all {len(first)} rows, and generation with "
            f"{', '.join(_named(pipeline, token) for token in sorted(start))}",
            observed=sorted(set(first))[:3],
            expected=sorted(start),
            where="decoder_input_ids",
            cause="decoder_input_ids are the target itself without a start: the first token of an "
            "answer is never predicted"
            if len(set(first)) > 1 and ordinary
            else "generation starts with another token than training: config and "
            "generation_config differ in decoder_start_token_id",
            fix="leave decoder_input_ids to the model, and set "
            "model.generation_config.decoder_start_token_id to what it begins with",
            severity=Severity.FAILURE if ordinary or generates else Severity.WARNING,
        )
    yield Measured(
        f"{alike} of {len(first)} rows begin in the decoder as generation does", alike, None
    )


def _start(pipeline: Pipeline) -> set[int]:
    """Return the ids that ``generate()`` begins a decoder with, in the order in which it looks."""
    import transformers

    config = getattr(unwrapped(pipeline.model), "generation_config", None)
    found: set[int] = set()
    # transformers 4 makes it anew of the model's config, if nobody has touched it since.
    made = getattr(config, "_from_model_config", False) and transformers.__version__ < "5"
    if made and getattr(config, "_original_object_hash", None) == hash(config):
        found |= _ids(getattr(pipeline.config, "decoder_start_token_id", None))
    for name in ("decoder_start_token_id", "bos_token_id"):
        if ids := _ids(getattr(config, name, None)):
            return found | ids
    return found


def _ids(value: int | list[int] | None) -> set[int]:
    if value is None:
        return set()
    return set(value) if isinstance(value, list) else {int(value)}


def _named(pipeline: Pipeline, token: int) -> str:
    convert = getattr(pipeline.tokenizer, "convert_ids_to_tokens", None)
    return f"{convert(token)!r} ({token})" if callable(convert) else str(token)
