"""The linear layer that makes the logits, watched from outside while the model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.forwards import classifier
from trainsanity.isolation.shards import whole
from trainsanity.maths.tolerances import REDUCTIONS
from trainsanity.pipeline import active_adapters, unwrapped
from trainsanity.types import Skip

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainsanity.pipeline import Pipeline


def find_head(pipeline: Pipeline) -> tuple[str, nn.Linear]:
    """The last ``nn.Linear`` with one output per label or word, and its name.

    Where the config tells another number than any layer has, the last one outside the base model;
    of a module without a config the one whose output its forward returns as the logits.

    Raises:
        Skip: the model has none.
    """
    from torch import nn

    if objective_of(pipeline).of_words:
        labels = getattr(pipeline.config, "vocab_size", None)
    else:
        labels = getattr(pipeline.config, "num_labels", None)
    if pipeline.config is None and (named := classifier(unwrapped(pipeline.model))) is not None:
        if not named.head:
            raise Skip("the model's forward shows no linear layer that makes its logits")
        return named.head, unwrapped(pipeline.model).get_submodule(named.head)
    layers = [
        (name, module)
        for name, module in pipeline.model.named_modules()
        if isinstance(module, nn.Linear) and not _rests(pipeline.model, name)
    ]
    inside = f"{getattr(pipeline.model, 'base_model_prefix', '')}."
    heads = [one for one in layers if one[1].out_features == labels] or [
        one for one in layers if inside != "." and not one[0].startswith(inside)
    ]
    if not heads:
        raise Skip(f"the model has no linear head with {labels} outputs")
    return heads[-1]


def _rests(model: Any, name: str) -> bool:
    """Return whether a module is the copy of an adapter that is not active."""
    _, mark, after = name.partition(".modules_to_save.")
    return bool(mark) and after.partition(".")[0] not in active_adapters(model)


def classes_of(pipeline: Pipeline) -> int:
    """Return how many classes the head has.

    Raises:
        Skip: neither config nor head tell.
    """
    told = getattr(pipeline.config, "num_labels", None)
    return int(find_head(pipeline)[1].out_features if told is None else told)


def head_or_none(pipeline: Pipeline) -> tuple[str, nn.Linear | None]:
    """Return the head and its name; an empty name and None for a model that has none."""
    try:
        return find_head(pipeline)
    except Skip:
        return "", None


def is_tied(pipeline: Pipeline, head_name: str) -> bool:
    """Return whether the head's weight is the input embedding, which has a gradient of its own."""
    try:
        embedding = pipeline.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return False
    own = weight_parameter(pipeline.model.get_submodule(head_name))
    return own is not None and getattr(embedding, "weight", None) is own


def weight_parameter(head: nn.Module) -> nn.Parameter | None:
    """Return the head's weight; None if it is computed from other parameters."""
    return dict(head.named_parameters(recurse=False)).get("weight")


def weight_values(head: Any) -> Tensor:
    """Return the values of the head's weight, computed as in evaluation.

    Reading the weight of a spectral norm in training mode moves the norm's buffers.
    """
    parametrisation = getattr(head, "parametrizations", None)
    if parametrisation is None:
        own: Tensor = whole(head.weight).detach()
        return own
    modes = [(module, module.training) for module in parametrisation.modules()]
    parametrisation.eval()
    try:
        computed: Tensor = head.weight.detach()
    finally:
        for module, training in modes:
            module.training = training
    return computed


@dataclass
class Pooled:
    """One forward pass, seen at its end.

    Attributes:
        logits: ``[B, C]`` or ``[B, T, C]``, in the model's dtype, as the model returned them.
        vector: ``[B, H]`` or ``[B, T, H]``, the head's input that the logits were made from, or
            None if no position of the head's output equals the logits.
        index: the column that each row was read at, or None for a head that is given one vector
            per row.
        dtype: in which the head computed; under autocast it is coarser than the weights' and the
            logits'.
        ambiguous: some row's logits fit several positions, so the index is one of them.
        scale: logits / the head's output there, 1 unless something rescales them after the head.
    """

    logits: Tensor
    vector: Tensor | None
    index: list[int | None] | None
    scale: float = 1.0
    dtype: Any = None
    ambiguous: bool = False


@dataclass
class Watch:
    """The passes seen so far; None for one that returned no logits.

    ``lossless``: the last one returned its outputs by name, and no loss among them.
    """

    passes: list[Pooled | None] = field(default_factory=list)
    lossless: bool = False


@contextmanager
def watched(model: Any, head: Any) -> Iterator[Watch]:
    """Record :class:`Pooled` for every forward of ``model`` in the block.

    Args:
        model: what is called.
        head: the linear layer that makes its logits; None if there is none.
    """
    import torch

    watch, calls = Watch(), []

    def at_head(_module: Any, inputs: Any, output: Any) -> None:
        if inputs and torch.is_tensor(inputs[0]) and torch.is_tensor(output):
            calls.append((inputs[0].detach(), output.detach()))

    def at_end(_module: Any, _inputs: Any, named: dict[str, Any], output: Any) -> None:
        found = output.get("logits") if isinstance(output, dict) else None
        watch.lossless = isinstance(output, dict) and output.get("loss") is None
        # A fused loss never makes them, and several heads may return several.
        if not torch.is_tensor(found):
            watch.passes.append(None)
            calls.clear()
            return
        logits = found.detach()
        # Gradient checkpointing runs parts again in the backward pass: only the last call that
        # came before the end of the forward counts.
        mask = named.get("attention_mask")
        seen = _pooled(logits, *calls[-1], mask) if calls else Pooled(logits, None, None)
        watch.passes.append(seen)
        calls.clear()

    handles = [model.register_forward_hook(at_end, with_kwargs=True)]
    if head is not None:
        handles.append(head.register_forward_hook(at_head))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def same_direction(*dtypes: Any) -> float:
    """The least cosine between a head's output and the logits that were rescaled from it.

    Scaling and the casts around it round each element by half a unit in the last place of the
    coarser dtype each time.  After four roundings every element is off by at most ``2 eps`` of
    itself, so that the difference is at most ``2 eps`` times as long as the vector, and the sine of
    the angle between them no more: the cosine is at least ``sqrt(1 - 4 eps^2) >= 1 - 4 eps^2``.
    It is computed in float32 itself.
    """
    import torch

    eps = max(float(torch.finfo(dtype).eps) for dtype in dtypes)
    return 1 - 4 * eps**2 - REDUCTIONS


def _pooled(logits: Tensor, given: Tensor, made: Tensor, mask: Tensor | None) -> Pooled:
    import torch

    if logits.dim() == 3 and made.shape == logits.shape:  # one row of logits for each token
        same = bool((made == logits).all())
        return Pooled(logits, given if same else None, None, dtype=made.dtype)
    # A score of two texts is no output of a layer for a row or a word.
    if logits.dim() != 2 or (len(made), made.shape[-1]) != tuple(logits.shape):
        return Pooled(logits, None, None)
    one_vector = made.dim() == 2
    positions = made[:, None, :] if one_vector else made
    fits = (positions == logits[:, None, :]).all(-1)
    if not bool(fits.any(-1).all()):
        cosine = torch.nn.functional.cosine_similarity(
            positions.float(), logits[:, None, :].float(), dim=-1
        )
        fits = (cosine == cosine.amax(-1, keepdim=True)) & (
            cosine >= same_direction(made.dtype, logits.dtype)
        )
    if not bool(fits.any(-1).all()):
        return Pooled(logits, None, None if one_vector else [None] * len(logits))
    # The last attended one of several that fit: a head of zeros fits everywhere.
    rank = torch.arange(1, fits.shape[1] + 1, device=fits.device) * fits
    if mask is not None and mask.shape == fits.shape:
        rank = rank + fits * mask * fits.shape[1]
    column = rank.argmax(-1)
    rows = torch.arange(len(column), device=column.device)
    there = positions[rows, column].double()
    norm = float((there * there).sum())
    return Pooled(
        logits,
        given if one_vector else given[rows, column],
        None if one_vector else column.tolist(),
        float((there * logits.double()).sum()) / norm if norm else 1.0,
        dtype=made.dtype,
        ambiguous=bool((fits.sum(-1) > 1).any()),
    )
