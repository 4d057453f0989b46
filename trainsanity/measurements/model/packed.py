"""Documents that lie in one row: one of them is changed, and the others are looked at."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.maths.tolerances import logits_difference
from trainsanity.measurements.batches.batch import prepared
from trainsanity.measurements.batches.chat_template import SYSTEM, ChatTemplate, messages_in
from trainsanity.measurements.batches.documents import CONVERSATION_COLUMNS, Documents
from trainsanity.measurements.model.forward import without_labels
from trainsanity.measurements.model.probes import states_of
from trainsanity.measurements.model.raised import Asked, Precision, in_float32
from trainsanity.pipeline import unwrapped
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

LENGTH_ARGUMENT = "logits_to_keep"
"""Language models that have it need not make the logits of every token."""


@dataclass(frozen=True)
class Packed:
    """How much the documents of a row depend on its first one.

    Attributes:
        documents: how many documents the row holds.
        apart: what says that they are to be apart; empty if nothing does.
        moved: how much the states of each further document change when the first one's tokens do,
            relative to their norm: of the token that changes most.
        allowed: what arithmetic explains.
        tokens: of the first document.
        precision: in which dtype the model was asked.
    """

    documents: int
    apart: str
    moved: list[float]
    allowed: float
    tokens: int
    precision: Precision


@measurement(Cost.FORWARD)
def packed(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Packed:
    """Change the first document of a packed row, and compare the states of the others.

    Raises:
        Skip: no row of the first batch holds two documents.
    """
    row, spans = _chosen(pipeline, documents, chat_template)
    return in_float32(pipeline, lambda asked: _asked(pipeline, documents, row, spans, asked))


def _asked(
    pipeline: Pipeline, documents: Documents, row: int, spans: list[tuple[int, int]], asked: Asked
) -> Packed:
    import torch

    inputs = without_labels(prepared(pipeline, documents.inputs))
    ids = inputs["input_ids"]
    start, stop = spans[0]
    changed = ids.clone()
    other = _others(pipeline, ids[row].tolist(), start, stop)
    changed[row, start:stop] = torch.tensor(other, device=ids.device, dtype=ids.dtype)
    before = _states(pipeline, inputs, row)
    after = _states(pipeline, {**inputs, "input_ids": changed}, row)
    layers = getattr(pipeline.config, "num_hidden_layers", None) or 1
    moved = [_relative(after[first:last], before[first:last]) for first, last in spans[1:]]
    # Two passes of one shape: what is not changed is computed by the same kernels.
    allowed = logits_difference(asked.precision.dtype, 0.0, math.sqrt(layers))
    return Packed(
        len(spans), documents.apart, moved, allowed, stop - start, precision=asked.precision
    )


def _chosen(
    pipeline: Pipeline, documents: Documents, template: ChatTemplate
) -> tuple[int, list[tuple[int, int]]]:
    """Return a row of the first batch with where its documents begin and end."""
    if documents.apart:
        by_row = documents.spans
    elif documents.whole:
        raise Skip("each row of the batch is one document")
    else:
        by_row = _by_eos(pipeline, documents, template)
    row = max(range(len(by_row)), key=lambda r: len(by_row[r]), default=None)
    if row is None or len(by_row[row]) < 2:
        raise Skip("no row of the first batch holds two documents")
    return row, by_row[row]


def _by_eos(
    pipeline: Pipeline, documents: Documents, template: ChatTemplate
) -> list[list[tuple[int, int]]]:
    """Blocks of one length: a document ends where EOS stands, unless EOS ends turns."""
    eos = getattr(pipeline.tokenizer, "eos_token_id", None)
    if any(name in one.raw for one in documents.found for name in CONVERSATION_COLUMNS):
        raise Skip("rows of one length are conversations here, and EOS may end their turns")
    ends_turns = any(eos in closer for closer in template.closers.values())
    found = []
    rows = documents.inputs["input_ids"].tolist()
    for row, spans in zip(rows, documents.spans, strict=True):
        first, last = spans[0][0], spans[-1][1]
        ends = [t + 1 for t in range(first, last) if row[t] == eos]
        # Of conversations whose column went with map(remove_columns=...) the ids show the headers;
        # where the next one begins only a system message tells.
        if ends_turns and (turns := messages_in(row, template, pipeline.tokenizer)):
            ends = [turn.header for turn in turns if turn.role == SYSTEM]
        borders = sorted({first, *ends, last})
        found.append([(a, b) for a, b in itertools.pairwise(borders) if b - a > 1])
    return found


def _others(pipeline: Pipeline, ids: Sequence[int], start: int, stop: int) -> list[int]:
    """Return other ordinary tokens of the row for those of the first document."""
    special = set(getattr(pipeline.tokenizer, "all_special_ids", ()) or ())
    ordinary = list(dict.fromkeys(token for token in ids if token not in special))
    if len(ordinary) < 2:
        raise Skip("the row has no two different ordinary tokens")
    after = dict(zip(ordinary, [*ordinary[1:], ordinary[0]], strict=True))
    return [after.get(token, token) for token in ids[start:stop]]


def _states(pipeline: Pipeline, inputs: Mapping[str, Any], row: int) -> Tensor:
    """Return the states under the head, or the logits, of one row; float64 on the CPU."""
    inner = unwrapped(pipeline.model)
    body = getattr(inner, "base_model", None)
    body = None if body is inner else body
    asked = dict(inputs)
    if body is not None and LENGTH_ARGUMENT in inspect.signature(inner.forward).parameters:
        asked[LENGTH_ARGUMENT] = 1
    try:
        with states_of(body) as seen:
            output = pipeline.model(**asked)
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise Skip(f"the model does not take the batch in evaluation mode: {said}") from error
    ids = inputs["input_ids"]
    states = seen[-1] if seen and seen[-1].shape[:2] == ids.shape else None
    if states is None:
        states = getattr(output, "logits", None)
    if states is None or states.shape[:2] != ids.shape:
        raise Skip("the model shows no state for each token")
    return states[row].detach().double().cpu()


def _relative(after: Tensor, before: Tensor) -> float:
    import torch

    norm = before.norm(dim=-1).clamp(min=torch.finfo(before.dtype).tiny)
    return float(((after - before).norm(dim=-1) / norm).max())
