"""Tokens that the loss supervises: the first batch with masks and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.objectives.base import CAUSAL_LM, IGNORED, MULTI_LABEL, REGRESSION
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Token:
    """One position of the batch.

    Attributes:
        position: its place in the padded row.
        id: its id.
        text: the id decoded alone; empty without a tokenizer.
        attended: the attention mask is 1 here.
        label: the label here; None if labels are per row.
        label_text: the label in words.
        counted: the loss has an item whose target this is.  A language model's first label, which
            nothing predicts, is not.
    """

    position: int
    id: int
    text: str
    attended: bool
    label: int | None
    label_text: str
    counted: bool


@dataclass(frozen=True)
class Row:
    """One row of the batch.

    Attributes:
        tokens: its positions.
        label: its label in words; empty if labels are per token.
        counted: whether the loss counts the row's label; always, if labels are per token.
    """

    tokens: list[Token]
    label: str
    counted: bool


@dataclass(frozen=True)
class Supervision:
    """The first micro-batch as the loss sees it.

    Attributes:
        task: the kind of loss.
        rows: as the model is given them, after the collator.
        items: what the loss counts: tokens, or rows.
        counts: the word for one of these, in the plural.
    """

    task: str
    rows: list[Row]
    items: int
    counts: str


@measurement(Cost.STATIC)
def supervision(pipeline: Pipeline, batch: Batch) -> Supervision:
    """Read mask and labels position by position."""
    batch.require_ids()  # the rows may be texts: the batch alone is read
    micro = batch.micro_batches[0]
    labels = micro.inputs.get("labels")
    a_row = objective_of(pipeline).of_rows
    if labels is None or labels.ndim < 2 or a_row:
        given = [None] * len(micro.inputs["input_ids"]) if labels is None else labels.tolist()
        rows = [
            Row(_tokens(pipeline, micro, i, None), _label_text(pipeline, label), _counted(label))
            for i, label in enumerate(given)
        ]
        return Supervision(
            objective_of(pipeline).name, rows, sum(row.counted for row in rows), "rows"
        )
    rows = [
        Row(_tokens(pipeline, micro, i, per_token), "", True)
        for i, per_token in enumerate(labels.tolist())
    ]
    items = sum(token.counted for row in rows for token in row.tokens)
    return Supervision(objective_of(pipeline).name, rows, items, "tokens")


def _tokens(pipeline: Pipeline, micro: MicroBatch, i: int, labels: list[Any] | None) -> list[Token]:
    ids = micro.inputs["input_ids"][i].tolist()
    mask = micro.inputs.get("attention_mask")
    attended = [1] * len(ids) if mask is None or mask.dim() != 2 else mask[i].tolist()
    # Targets with a length of their own, as translation has, do not stand beside these tokens.
    beside = labels if labels is not None and len(labels) == len(ids) else [None] * len(ids)
    first = 1 if objective_of(pipeline).name == CAUSAL_LM else 0
    return [
        Token(
            t,
            token,
            _decoded(pipeline, token),
            bool(one),
            label,
            _token_label(pipeline, label),
            label not in (None, IGNORED) and t >= first,
        )
        for t, (token, one, label) in enumerate(zip(ids, attended, beside, strict=True))
    ]


def _decoded(pipeline: Pipeline, token: int) -> str:
    if pipeline.tokenizer is None or token < 0:
        return ""
    return str(pipeline.tokenizer.decode([token]))


def _token_label(pipeline: Pipeline, label: int | None) -> str:
    if label in (None, IGNORED):
        return ""
    names = getattr(pipeline.config, "id2label", None) or {}
    if objective_of(pipeline).name == CAUSAL_LM or label not in names:
        return _decoded(pipeline, int(label or 0))
    return str(names[label])


def _counted(label: Any) -> bool:
    return label is not None and label != IGNORED


def _label_text(pipeline: Pipeline, label: Any) -> str:
    """Return a row's label with its name, several labels, or the number of a regression."""
    names = getattr(pipeline.config, "id2label", None) or {}
    if label is None:
        return "none"
    if objective_of(pipeline).name == MULTI_LABEL:
        chosen = [f"{k} {names.get(k, '')}".strip() for k, one in enumerate(label) if one]
        return ", ".join(chosen) or "none of them"
    if objective_of(pipeline).name == REGRESSION or label not in names:
        return str(label)
    return f"{label} {names[label]}"
