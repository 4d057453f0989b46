"""TS537 loss.negatives_are_others."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainsanity.engine.registry import check
from trainsanity.measurements.step.steps import Recording
from trainsanity.types import Cost, Finding, Measured, Severity, Skip

LEFT_OUT = -1e4
"""A score at which a pair is no negative any more: its share of the softmax is 0 in float32."""

SHARE = 0.05
"""Share of log B, the loss of a batch of B rows before anything is learnt, that the floor of the
loss may be before it is a failure. Chosen: one pair among 64 rows makes 2 log 2 / 64, 0.5 % of log
64; with a dozen answers for all questions 8 rows make 18 % on average."""


@check("TS537", "loss.negatives_are_others", cost=Cost.STEP, rules_out="false negatives")
def negatives_are_others(recording: Recording) -> Iterator[Measured | Finding]:
    """The negatives of a row do not hold its own positive.

    What it checks: losses that tell each row's partner from those of the other rows of the batch,
    as MultipleNegativesRankingLoss, CLIP and InfoNCE do: whether rows of the first micro-batch have
    the same partner.

    Why it matters: a text that is the answer to two rows of a batch is drawn to the one and pushed
    away from the other at once. The loss cannot come below what these pairs make, and what belongs
    together is moved apart.

    How it is measured: a ``cross_entropy`` over a square of scores with the targets 0, 1, 2 ... is
    such a loss. Where n rows have the same value in a column and others in another, a model that
    knows everything still has log n for each of them; pairs that the scores leave out, at -1e4 or
    less, do not count. The mean over the rows is a failure above 5 % of log B, and a warning below.

    How to fix: draw batches without duplicates, or leave out what is equal::

        # bad
        args = SentenceTransformerTrainingArguments(...)
        # good
        args = SentenceTransformerTrainingArguments(..., batch_sampler=BatchSamplers.NO_DUPLICATES)

    Known false alarms: none known.

    References: huggingface/sentence-transformers#3189, fabawi/ImageBind-LoRA#6.
    """
    rows: Sequence[Any] = recording.first.micro_steps[0].rows or ()
    scores = next(
        (
            call.scores
            for call in recording.loss_calls
            if call.scores and call.targets == [*range(len(call.scores))]
        ),
        None,
    )
    if scores is None or len(rows) != len(scores) or not isinstance(rows[0], Mapping):
        raise Skip("no cross_entropy tells a row's partner from those of the other rows")
    columns = [name for name, value in rows[0].items() if _is_content(value)]
    if not columns:
        raise Skip("the rows hold no texts or tokens that could be the same")
    worst, column = max((_floor(rows, name, scores), name) for name in columns)
    start = math.log(len(rows)) if len(rows) > 1 else math.inf
    if worst > 0:
        yield Finding(
            f"rows of the first micro-batch have the same {column}, and each is a negative of the "
            f"others: the loss cannot come below {worst:.3f}, and begins at about {start:.3f}",
            observed=worst,
            expected=0.0,
            where=f"column {column}",
            cause="equal texts in one batch: a row's own answer is among its negatives",
            fix="batches without duplicates (batch_sampler=BatchSamplers.NO_DUPLICATES), or mask "
            "equal texts out of the scores",
            severity=Severity.FAILURE if worst > SHARE * start else Severity.WARNING,
        )
    yield Measured(
        f"equal partners among {len(rows)} rows keep the loss above {max(worst, 0.0):.3f}; it "
        f"begins at about {start:.3f}",
        worst,
        0.0,
    )


def _is_content(value: Any) -> bool:
    """Return whether a value is a text, or numbers other than marks, which rows share by chance."""
    if hasattr(value, "tolist"):
        return bool(getattr(value, "ndim", 0)) and not set(value.reshape(-1).tolist()) <= {0, 1}
    if isinstance(value, list | tuple):
        return any(one not in (0, 1) for one in value)
    return isinstance(value, str) and bool(value)


def _told(value: Any) -> str:
    """Return a text for what JSON does not know, the same for equal tensors and arrays."""
    if not hasattr(value, "tolist"):
        return str(value)
    content = repr(value.tolist()).encode()
    return f"{getattr(value, 'shape', ())} {hashlib.sha1(content).hexdigest()}"


def _floor(rows: Sequence[Mapping[str, Any]], name: str, scores: list[list[float]]) -> float:
    """Return the loss that equal values in this column leave to a model that knows everything."""
    values = [json.dumps(row[name], default=_told) for row in rows]
    others = [
        json.dumps({key: value for key, value in row.items() if key != name}, default=_told)
        for row in rows
    ]
    if len({*values}) < 2 or len({*others}) < 2:
        return 0.0
    total = 0.0
    for k, value in enumerate(values):
        same = [
            j
            for j, other in enumerate(values)
            if other == value and j != k and others[j] != others[k] and scores[k][j] > LEFT_OUT
        ]
        total += math.log(1 + len(same))
    return total / len(rows)
