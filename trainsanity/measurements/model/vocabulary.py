"""The tokenizer's vocabulary beside that of the checkpoint whose weights the model has."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import whole
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.adapters import base_weight
from trainsanity.measurements.model.checkpoint_tokens import tokens_of
from trainsanity.measurements.model.origin import checkpoint_folder
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.measurements.model.stored_tensors import rows_as_stored, stored_tensors
from trainsanity.measurements.model.weights_files import loaded_from
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Vocabulary:
    """Ids of the first rows, and what they mean.

    Attributes:
        folder: of the checkpoint.
        ids: different ids that were looked at, which the checkpoint's tokenizer has as well.
        others: id to the tokenizer's token and the checkpoint's, where these differ and the
            embedding's row is still the one of the checkpoint's token.
    """

    folder: str
    ids: int
    others: dict[int, tuple[str, str]]


@measurement(Cost.STATIC)
def vocabulary(pipeline: Pipeline, batch: Batch) -> Vocabulary:
    """Compare what the ids of the first rows mean, here and in the checkpoint's tokenizer.

    Raises:
        Skip: the checkpoint's tokenizer, or its embedding, is not on this machine.
    """
    import torch

    tokenizer = pipeline.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "convert_ids_to_tokens"):
        raise Skip("this pipeline has no tokenizer")
    base = unwrapped(pipeline.model)
    folder = checkpoint_folder(getattr(base, "config", None))
    before = tokens_of(folder) if folder is not None else None
    if folder is None or not before:
        raise Skip("the tokenizer of the model's checkpoint is not on this machine")
    if away := not_in_memory(pipeline.model):
        raise Skip(away)
    all_ids = (micro.inputs.get("input_ids") for micro in batch)
    held = {int(i) for ids in all_ids if torch.is_tensor(ids) for i in ids.unique().tolist()}
    seen = sorted(held & before.keys())
    named = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in seen}
    others = {i: (token, before[i]) for i, token in named.items() if token != before[i]}
    if others:
        kept = _as_stored(base, folder, sorted(others))
        others = {i: both for i, both in others.items() if i in kept}
    return Vocabulary(str(folder), len(seen), others)


def _as_stored(base: Any, folder: Any, ids: list[int]) -> set[int]:
    """Return the ids whose row of the input embedding is the checkpoint's.

    Raises:
        Skip: it is not known which tensor that is.
    """
    try:
        weight = base_weight(base.get_input_embeddings())
    except (AttributeError, NotImplementedError) as error:
        raise Skip("the model does not show its input embedding") from error
    with ExitStack() as stack:
        files = stored_tensors(folder, stack)
        if not files:
            raise Skip("the checkpoint's weights are not on this machine, or no safetensors")
        loaded = loaded_from(base, files)
        keys = [
            loaded.mapping.found[name]
            for name, parameter in loaded.parameters.items()
            if parameter is weight and name in loaded.mapping.found
        ]
        if not keys:
            raise Skip("the input embedding is none of the checkpoint's tensors")
        part = files[keys[0]].get_slice(keys[0])
        return rows_as_stored(whole(weight), part, list(part.get_shape()), ids)
