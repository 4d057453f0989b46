"""TS419 model.decoder_starts_alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import predicting
from trainsanity.objectives.base import IGNORED
from trainsanity.pipeline import unwrapped
from trainsanity.types import Finding, Measured, Severity, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 4
"""Rows from which on it is no chance that all of them begin alike."""


@check(
    "TS419",
    "model.decoder_starts_alike",
    requires=("model.targets_unseen",),
    rules_out="another start of the decoder",
)
def decoder_starts_alike(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The decoder is trained to start with ``decoder_start_token_id``.

    What it checks: the first of the decoder's inputs in the first step's batches against
    ``generation_config.decoder_start_token_id`` (``bos_token_id`` where that is not set), and the
    first targets against ``generation_config.forced_bos_token_id``.

    Why it matters: generation begins from an input that training has never shown, and nothing has
    taught the model what the first token of an answer is.

    How it is measured: exact; a prompt before the start, where no label counts, is passed over.
    If no row begins with generation's start it is a failure, where the
    Trainer generates itself (``predict_with_generate``) or rows begin with ordinary tokens; where
    all begin with special tokens, and the Trainer does not generate, it is a warning: a language
    code may be given to ``generate()`` by hand. The same holds for the token that generation is
    forced to begin with, if no target begins with it; targets that all begin with their source's
    first token are a failure. A start that every row has twice is a warning: generation repeats
    it as well, and a pretrained model has never seen it.

    How to fix: let the model make decoder_input_ids of the labels, and set one start for both::

        # bad
        model.config.decoder_start_token_id = tokenizer.lang_code_to_id["de_DE"]
        # good
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id

    Known false alarms: none known.

    References: huggingface/transformers#5327, abhimishra91/transformers-tutorials#15,
    huggingface/transformers#18133, huggingface/transformers#29973.
    """
    import torch

    if not getattr(pipeline.config, "is_encoder_decoder", False):
        raise Skip("the model is no encoder-decoder")
    start = _start(pipeline)
    if not start:
        raise Skip("no token is set with which generation begins")
    first: list[int] = []
    second: list[int] = []
    for micro in batch:
        ids = predicting(pipeline.model, dict(micro.inputs)).get("decoder_input_ids")
        if not torch.is_tensor(ids) or ids.dim() != 2 or not ids.numel():
            raise Skip("the decoder's inputs are not seen")
        mask = micro.inputs.get("decoder_attention_mask")
        place = mask.argmax(1) if torch.is_tensor(mask) and mask.shape == ids.shape else None
        if place is None:
            place = _answers_begin(ids, micro.inputs.get("labels"), start)
        column = ids[:, 0] if place is None else ids.gather(1, place[:, None])[:, 0]
        first += column.tolist()
        second += [] if place is not None or ids.shape[1] < 2 else ids[:, 1].tolist()
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
    elif len(set(first)) == 1 and len(second) >= ROWS and second == first:
        yield Finding(
            f"the decoder is given {_named(pipeline, first[0])} twice at the start of all "
            f"{len(first)} rows",
            observed=2,
            expected=1,
            where="labels",
            cause="the labels begin with the start token, and the model puts another before them: "
            "the first target is to answer the start with a second one",
            fix="cut the first label off where it is model.config.decoder_start_token_id",
            severity=Severity.WARNING,
        )
    yield from _forced(pipeline, batch)
    yield Measured(
        f"{alike} of {len(first)} rows begin in the decoder as generation does", alike, None
    )


def _answers_begin(ids: Any, labels: Any, start: set[int]) -> Any:
    """Return where answers begin behind a prompt that is read and not taught; None if at 0.

    What was said before may stand before the start; no label counts there.
    """
    import torch

    if not torch.is_tensor(labels) or labels.shape != ids.shape or labels.is_floating_point():
        return None
    place = (labels != IGNORED).int().argmax(1)
    at_start = ids.gather(1, place[:, None])[:, 0].tolist()
    return place if bool(place.any()) and set(at_start) <= start else None


def _forced(pipeline: Pipeline, batch: Batch) -> Iterator[Finding]:
    """Yield a finding if no target begins with the token that generation is forced to give."""
    import torch

    generation = getattr(unwrapped(pipeline.model), "generation_config", None)
    forced = _ids(getattr(generation, "forced_bos_token_id", None))
    begins: list[int] = []
    sources: list[int] = []
    for micro in batch:
        labels, ids = micro.inputs.get("labels"), micro.inputs.get("input_ids")
        if not torch.is_tensor(labels) or labels.dim() != 2 or labels.is_floating_point():
            return
        counted = (labels != IGNORED).int()
        begins += labels.gather(1, counted.argmax(1)[:, None])[:, 0].tolist()
        if torch.is_tensor(ids) and ids.shape[:1] == labels.shape[:1] and ids.dim() == 2:
            sources += ids[:, 0].tolist()
    if not forced or len(begins) < ROWS or forced & set(begins):
        return
    as_source = sources == begins and len(set(begins)) == 1
    special = set(getattr(pipeline.tokenizer, "all_special_ids", None) or ())
    generates = bool(getattr(pipeline.args, "predict_with_generate", False))
    surely = as_source or generates or not set(begins) <= special
    named = ", ".join(_named(pipeline, token) for token in sorted(set(begins))[:3])
    yield Finding(
        f"the first token of the target is {named} in all {len(begins)} rows, and generation is "
        f"forced to begin with {', '.join(_named(pipeline, token) for token in sorted(forced))}",
        observed=sorted(set(begins))[:3],
        expected=sorted(forced),
        where="labels",
        cause="targets are tokenized as if they were sources: they begin with the source's "
        "language code"
        if as_source
        else "targets do not begin with generation_config.forced_bos_token_id: what follows it has "
        "not been trained",
        fix="tokenizer(text_target=...) with tokenizer.tgt_lang set, or "
        "generation_config.forced_bos_token_id = the token that targets begin with",
        severity=Severity.FAILURE if surely else Severity.WARNING,
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
