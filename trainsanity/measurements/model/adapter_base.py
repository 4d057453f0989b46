"""The base of an adapter: the model that it was trained for, new tokens, tied weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.shards import is_sharded, made_in_parts, shape_of, whole
from trainsanity.maths.norms import norm_of
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.adapters import Adapters, base_weight, is_tuner
from trainsanity.measurements.model.checkpoint_tokens import tokens_of
from trainsanity.measurements.model.origin import (
    added_by_peft,
    checkpoint_folder,
    plain_name,
    tensor_names,
)
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.pipeline import active_adapters, embedding_rows, is_adapted, unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

EMPTY = 1e-6
"""Part of the usual length that an untrained row has at the most: float32 has seven digits, and
such rows are zeros, or what weight decay has left of them."""

COMPARED = 4
"""Adapted layers whose base weights are compared: one alone may be equal by chance."""


@dataclass(frozen=True)
class AdapterBase:
    """The base weights under an adapter beside those that its configuration names.

    Attributes:
        named: ``base_model_name_or_path`` of the adapter's configuration.
        loaded: where the model was loaded from.
        compared: adapted layers whose base weights were compared.
        differ: those whose weights differ, by how much at the most.
    """

    named: str
    loaded: str
    compared: int
    differ: dict[str, float]


@measurement(Cost.STATIC)
def adapter_base(pipeline: Pipeline, adapters: Adapters) -> AdapterBase:
    """Compare weights under the active adapter with the checkpoint that it was trained for.

    Raises:
        Skip: it is the model's own checkpoint, or is not on this machine.
    """
    from safetensors import safe_open

    model = pipeline.model
    if len(adapters.active) != 1:
        raise Skip("not one adapter is active")
    named = str(getattr(model.peft_config[adapters.active[0]], "base_model_name_or_path", "") or "")
    base = unwrapped(model)
    loaded = str(getattr(getattr(base, "config", None), "_name_or_path", "") or "")
    if not named or not loaded or os.path.realpath(named) == os.path.realpath(loaded):
        raise Skip("the adapter's base is the checkpoint that the model was loaded from")
    folder = checkpoint_folder(_Named(named))
    if folder is None:
        raise Skip(f"the adapter's base {named!r} is not on this machine")
    if away := not_in_memory(model):
        raise Skip(away)
    added, known = added_by_peft(model), tensor_names(folder)
    files = sorted(folder.glob("*.safetensors"))
    compared, differ = 0, {}
    for name, layer in base.named_modules():
        weight = getattr(getattr(layer, "base_layer", None), "weight", None)
        plain = plain_name(f"{name}.base_layer.weight", added) if is_tuner(layer) else None
        if weight is None or plain not in known or compared == COMPARED:
            continue
        for file in files:
            with safe_open(str(file), framework="pt") as tensors:
                if plain in tensors.keys():  # noqa: SIM118 - no mapping
                    stored = tensors.get_tensor(plain)
                    break
        else:
            continue
        if tuple(stored.shape) != shape_of(weight) or not weight.is_floating_point():
            continue
        compared += 1
        # In the coarser of the two: rounding is no other model.
        coarser = min(weight.dtype, stored.dtype, key=lambda dtype: dtype.itemsize)
        own = whole(weight).detach().cpu().to(coarser)
        if (far := float((own - stored.to(coarser)).abs().max())) > 0:
            differ[plain] = far
    if not compared:
        raise Skip(f"no weight under the adapter has its name in the files of {named!r}")
    return AdapterBase(named, loaded, compared, differ)


@dataclass(frozen=True)
class _Named:
    _name_or_path: str


@dataclass(frozen=True)
class NewTokens:
    """Tokens that the checkpoint did not have.

    Attributes:
        tokens: id to text, of those that the first step's rows hold.
        since: what tells that they are new, or that they were never trained.
        trained: those whose row of the input embedding is trained.
        output: those whose row of the output layer is trained; None if there is no such layer.
    """

    tokens: dict[int, str]
    since: str
    trained: set[int]
    output: set[int] | None


@measurement(Cost.STATIC)
def new_tokens(pipeline: Pipeline, batch: Batch) -> NewTokens:
    """Find tokens in the first rows that the checkpoint's tokenizer, or embedding, did not have.

    Raises:
        Skip: nothing shows that tokens were added.
    """
    import torch

    model, tokenizer = pipeline.model, pipeline.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "added_tokens_decoder"):
        raise Skip("this pipeline has no tokenizer")
    base = unwrapped(model)
    folder = checkpoint_folder(getattr(base, "config", None))
    if folder is None:
        raise Skip("the checkpoint that the model was loaded from is not on this machine")
    added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    before, since = tokens_of(folder), "the checkpoint's tokenizer does not have them"
    if before is None:
        rows = _stored_rows(folder, base)
        if rows is None:
            raise Skip("neither a tokenizer nor an embedding lies in the checkpoint")
        new = {i: token for i, token in added.items() if i >= rows}
        since = f"the checkpoint's embedding has {rows} rows"
    else:
        new = {i: token for i, token in added.items() if before.get(i) != token}
    seen = {int(one) for micro in batch if torch.is_tensor(micro.inputs.get("input_ids"))
            for one in micro.inputs["input_ids"].unique().tolist()}  # fmt: skip
    seen -= {tokenizer.pad_token_id}
    inputs, outputs = _embeddings(base)
    empty: set[int] = set()
    if inputs is not None and not not_in_memory(model):
        empty = _empty_rows(inputs, seen)
        # One row of zeros can be told from all others, if the output layer has another for it.
        if len(empty) == 1:
            empty = _empty_rows(outputs, seen) & empty if outputs is not None else set()
    if not new and not empty:
        raise Skip("the tokenizer has no token that the checkpoint's does not have")
    tokens = {i: token for i, token in new.items() if i in seen}
    if empty and not tokens:
        tokens = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in sorted(empty)}
        since = "their rows in the embedding are zeros: the checkpoint was never trained on them"
    if inputs is None:
        raise Skip("the model does not show its input embedding")
    tied = outputs is not None and base_weight(inputs) is base_weight(outputs)
    trained = _trained(inputs, tokens, active_adapters(model))
    head = None if outputs is None else _trained(outputs, tokens, active_adapters(model))
    return NewTokens(tokens, since, trained, trained if tied else head)


def _empty_rows(layer: Any, ids: set[int]) -> set[int]:
    """Return those of some ids whose row of an embedding is as good as zero beside the others."""
    weight = base_weight(layer)
    rows = 0 if weight is None else shape_of(weight)[0]
    places = sorted(i for i in ids if 0 <= i < rows)
    if not places or not weight.is_floating_point():
        return set()
    if made_in_parts(layer):
        weight = whole(weight)
    # Of what is sharded a number a row is gathered, and not the rows.
    shown = weight.detach() if is_sharded(weight) else weight.detach()[places]
    sizes = whole(norm_of(shown, dim=-1))
    sizes = sizes[places] if is_sharded(weight) else sizes
    usual = float(sizes.median())
    return {i for i, size in zip(places, sizes.tolist(), strict=True) if size <= EMPTY * usual}


def _embeddings(base: Any) -> tuple[Any, Any]:
    """Return the input and the output embedding; None for one that the model does not show."""
    found = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        try:
            found.append(getattr(base, name)())
        except (AttributeError, NotImplementedError):
            found.append(None)
    return found[0], found[1]


def _stored_rows(folder: Path, base: Any) -> int | None:
    from safetensors import safe_open

    if embedding_rows(base) is None:
        return None
    names = {name for name in tensor_names(folder) if name.endswith(("embed_tokens.weight",
             "wte.weight", "word_embeddings.weight"))}  # fmt: skip
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as tensors:
            for name in names & set(tensors.keys()):
                return int(tensors.get_slice(name).get_shape()[0])
    return None


def _trained(layer: Any, tokens: dict[int, str], active: list[str]) -> set[int]:
    """Return the tokens whose row of a layer is trained, itself or by an adapter."""
    indices = getattr(layer, "token_indices", None)
    if indices is None:
        indices = getattr(getattr(layer, "token_adapter", None), "token_indices", None)
    if indices:
        own = {int(i) for one in active for i in indices.get(one, ())}
        return own & set(tokens)
    learns = any(p.requires_grad for p in layer.parameters())
    return set(tokens) if learns else set()


@dataclass(frozen=True)
class TiedWeights:
    """Input and output embedding of a model whose config ties them.

    Attributes:
        apart: why they come apart when they are trained; empty if they do not.
        copies: both, or one of them, are trained as copies of their own.
        cause: what makes them come apart.
    """

    apart: str = ""
    copies: bool = False
    cause: str = "PEFT wraps each of the two for itself"


@measurement(Cost.STATIC)
def tied_weights(pipeline: Pipeline) -> TiedWeights:
    """Look for tied weights of which one side is trained alone, or each for itself.

    Raises:
        Skip: the config ties nothing, or there is no output embedding.
    """
    if not getattr(pipeline.config, "tie_word_embeddings", False):
        raise Skip("the config ties no weights")
    inputs, outputs = _embeddings(unwrapped(pipeline.model))
    if inputs is None or outputs is None:
        raise Skip("the model has no output embedding")
    if not is_adapted(pipeline.model):
        return _plainly_apart(unwrapped(pipeline.model), inputs, outputs)
    active = active_adapters(pipeline.model)
    sides = [_copies(layer, active) for layer in (inputs, outputs)]
    learns = [any(p.requires_grad for p in side) for side in sides]
    if sides[0] and sides[1] and {id(p) for p in sides[0]} & {id(p) for p in sides[1]}:
        return TiedWeights()
    if any(learns):
        which = "both are" if all(learns) else "one is"
        return TiedWeights(f"{which} trained as a copy of modules_to_save", copies=True)
    tuned = [is_tuner(layer) or hasattr(layer, "token_adapter") for layer in (inputs, outputs)]
    lora = [is_tuner(layer) and bool(set(active_adapters(layer)) & set(active))
            for layer in (inputs, outputs)]  # fmt: skip
    if any(lora) and not all(tuned):
        side = "the input" if lora[0] else "the output"
        return TiedWeights(f"{side} embedding alone has an adapter")
    return TiedWeights()


def _plainly_apart(base: Any, inputs: Any, outputs: Any) -> TiedWeights:
    """Return whether a model without an adapter holds two tensors where its class ties one."""
    import torch

    one, other = (getattr(layer, "weight", None) for layer in (inputs, outputs))
    if not getattr(base, "_tied_weights_keys", None) or one is None or other is None:
        return TiedWeights()
    if one is other or one.shape != other.shape or one.is_meta or not one.numel():
        return TiedWeights()
    # What shards or quantises weights may hold them twice, and no tensor's place tells.
    if type(one) is not type(other) or hasattr(one, "placements") or one.dtype != other.dtype:
        return TiedWeights()
    if not (one.requires_grad or other.requires_grad):
        return TiedWeights()
    # An encoder-decoder of two vocabularies ties its head to the decoder's embedding.
    embeddings = (part for part in base.modules() if isinstance(part, torch.nn.Embedding))
    if any(part.weight.data_ptr() == other.data_ptr() for part in embeddings):
        return TiedWeights()
    return TiedWeights(
        "each has a tensor of its own",
        copies=True,
        cause="one of the two was replaced after the model had tied them",
    )


def _copies(layer: Any, active: list[str]) -> list[Any]:
    copies = getattr(layer, "modules_to_save", None)
    if copies is None:
        return []
    return [p for name in active if name in copies for p in copies[name].parameters()]
