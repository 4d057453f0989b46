"""The gradient that each attended token of a few rows leaves in the input embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import logits_of
from trainsanity.isolation.shards import is_sharded, made_in_parts, whole
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.model.forward import as_trained
from trainsanity.measurements.model.placement import not_in_memory
from trainsanity.measurements.model.probe_rows import IDS, probe_rows
from trainsanity.measurements.model.probes import ModelProbe, states_of
from trainsanity.pipeline import input_embedding
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class EmbeddingGradient:
    """Which tokens' embeddings move.

    Attributes:
        norms: norm of the gradient of a token's row, by id, for every id that is attended.
        special: of those, the special and added tokens, with their texts.
        pad: the id that padding has, whose row need not move.
        unread: special tokens without a gradient whose rows the model makes nothing of, whatever
            they hold, as ESM does of its mask.
    """

    norms: dict[int, float]
    special: dict[int, str]
    pad: int
    unread: frozenset[int] = frozenset()


@measurement(Cost.BACKWARD)
def embedding_gradient(pipeline: Pipeline, batch: Batch) -> EmbeddingGradient:
    """Differentiate a random projection of the last states by the embedding, eval mode.

    Not the loss: it leaves no gradient where a label is met already, nor under a head of zeros.

    Raises:
        Skip: the embedding is frozen or not in memory, or no states are visible.
    """
    import torch

    if (away := not_in_memory(pipeline.model)) is not None:
        raise Skip(away)
    layer = input_embedding(pipeline.model)
    if layer is None:
        raise Skip("the model has no input embedding")
    weight = getattr(layer, "weight", None)
    if weight is None or not weight.requires_grad:
        raise Skip("the input embedding is frozen")
    if made_in_parts(pipeline.model):
        raise Skip("DeepSpeed made the model in parts, and differentiates it with its engine alone")
    if not weight.is_leaf:
        raise Skip("the input embedding is computed from other parameters, which have its gradient")
    with as_trained(pipeline), torch.enable_grad():
        if not weight.requires_grad:
            raise Skip("the model's own train() freezes the input embedding")
        parameters = [*pipeline.model.parameters()]  # a forward may leave others in their places
        rows = probe_rows(pipeline, batch)
        inputs = rows.stacked(rows.longest, rows.side)
        probe_model = ModelProbe(pipeline, rows)
        with states_of(probe_model.body) as seen:
            output = probe_model.output(inputs)
        states = seen[-1] if seen else logits_of(output)
        if states is None:
            raise Skip("no states are visible that could be differentiated")
        if not seen and bool((states == states[:1]).all()):
            raise Skip("no states are visible, and all rows have the same logits: a head of zeros "
                       "lets no gradient through")  # fmt: skip
        mask = inputs["attention_mask"].bool()
        kept = _attended(states, mask)
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(kept.shape, generator=generator).to(kept)
        try:
            gradient = gradient_of((kept * probe).sum(), weight, parameters)
        except AssertionError as error:  # Reformer's layers run backward in training mode alone
            raise Skip(f"not to be differentiated in eval mode: {first_line(error)}") from error
    ids = sorted({int(one) for row in rows.tokens for one in row[IDS]})
    if gradient is None:
        norms = dict.fromkeys(ids, 0.0)
    else:
        places = torch.tensor(ids, device=gradient.device)
        found = gradient.index_select(0, places)
        dense = found.to_dense() if found.is_sparse else found
        norms = dict(zip(ids, dense.double().norm(dim=-1).tolist(), strict=True))
    special = _special(pipeline, ids)
    still = [one for one in special if norms[one] == 0 and one != rows.fill[IDS]]
    unread: frozenset[int] = frozenset()
    if still and not is_sharded(weight):
        with as_trained(pipeline):
            unread = frozenset(
                one for one in still if _changes_nothing(probe_model, inputs, weight, one, kept)
            )
    return EmbeddingGradient(norms, special, rows.fill[IDS], unread)


def _changes_nothing(
    probe_model: ModelProbe, inputs: dict[str, Any], weight: Any, token: int, before: Tensor
) -> bool:
    """Return whether other values in a token's row leave all attended states as they are.

    Of a model that shows its logits alone, those for the token behind the last may be cut off.
    """
    import torch

    kept = weight[token].clone()
    try:
        weight[token] += 1
        with states_of(probe_model.body) as seen:
            output = probe_model.output(inputs)
        after = seen[-1] if seen else logits_of(output)
    finally:
        weight[token] = kept
    if after is None:
        return False
    return torch.equal(_attended(after, inputs["attention_mask"].bool()), before.detach())


def _attended(states: Tensor, mask: Tensor) -> Tensor:
    """Return the states where the mask shows tokens; all of them where they are not of tokens."""
    return states[mask] if states.shape[:2] == mask.shape else states


def gradient_of(loss: Tensor, weight: Any, parameters: Sequence[Any]) -> Tensor | None:
    """Return a weight's gradient, None if the loss does not depend on it; all others stay.

    Args:
        loss: is differentiated.
        weight: one of the parameters.
        parameters: of the model, as they were before its forward.

    """
    import torch

    # An engine that shards has the forward use another tensor in the weight's place, and adds to
    # the gradients of the parts, as a mean over processes.

    if not is_sharded(weight):
        own: Tensor | None = torch.autograd.grad(loss, weight, allow_unused=True)[0]
        return own
    before = [(p, p.grad) for p in parameters]
    for p, _ in before:
        p.grad = None
    try:
        loss.backward()
        found: Tensor | None = None if weight.grad is None else whole(weight.grad)
        return found
    finally:
        for p, gradient in before:
            p.grad = gradient


def _special(pipeline: Pipeline, ids: list[int]) -> dict[int, str]:
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        return {}
    known = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    known |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {i: known[i] for i in ids if i in known}
