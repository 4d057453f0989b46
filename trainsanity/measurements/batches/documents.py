"""The documents that a language model is trained on, each token beside its label.

A document is a row of the batch, or a part of one where positions, lengths or indices say that
several are packed into it.  The rows go through the user's own loader and collator.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet, record_collator
from trainsanity.measurements.batches.whose_loss import labels_reach_model
from trainsanity.objectives.base import CAUSAL_LM, IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 64
"""Rows that are collated: a fault of one row in twenty is among them with 96 %."""

CONVERSATION_COLUMNS = ("messages", "conversations", "prompt", "completion")
"""Columns of rows that are questions with answers."""

Micro = tuple[Mapping[str, Any], list[dict[str, Any]]]
"""A batch as the collator returned it, and the rows that it was given."""


@dataclass(frozen=True)
class Document:
    """One document.

    Attributes:
        row: number of its row in the order in which training reads them.
        ids: its tokens, without padding.
        labels: beside each token; -100 where the loss counts none, and at the first token of a row,
            which nothing predicts.
        raw: the dataset's row with all its columns; empty where it is not known, or where the row
            holds several documents.
        cut: it is as long as rows may be, or as the longest row is: an end may be missing.
    """

    row: int
    ids: list[int]
    labels: list[int]
    raw: Mapping[str, Any]
    cut: bool

    @property
    def counted(self) -> list[int]:
        """Places whose token is a target."""
        return [place for place, label in enumerate(self.labels) if label != IGNORED]


@dataclass(frozen=True)
class Documents:
    """Documents of a few batches.

    Attributes:
        found: the documents, in the order of the batches.
        rows: how many rows the collator was given.
        apart: what says that a batch's row holds several documents; empty if nothing does.
        limit: tokens that a row may have; None if the arguments do not say.
        inputs: the first batch, as the collator returned it.
        spans: for each of its rows, where each document begins and ends.
        shifted: the labels are those of the next place already, and the model is given them.
    """

    found: list[Document]
    rows: int
    apart: str
    limit: int | None
    inputs: Mapping[str, Any] = field(repr=False)
    spans: list[list[tuple[int, int]]] = field(default_factory=list)
    shifted: bool = False

    @property
    def whole(self) -> list[Document]:
        """Return those that are not cut; empty where rows are blocks of one length."""
        kept = [one for one in self.found if not one.cut]
        # The last block of a text that was cut into blocks is shorter.
        return kept if len(kept) > max(1, len(self.found) // 10) else []


def in_training_order(row: int) -> str:
    """Return where a row that was drawn is found again: ``show`` writes them in the same order."""
    return f"row {row} in training order (trainsanity show TARGET --rows {row + 1})"


@measurement(Cost.STATIC)
def documents(pipeline: Pipeline) -> Documents:
    """Collate a few rows of the training data, and split the batches into documents.

    Raises:
        Skip: the pipeline trains no causal language model, or its batches have no label beside
            each token.
    """
    if objective_of(pipeline).name != CAUSAL_LM:
        raise Skip("documents are looked for where a causal language model is trained")
    with preserved(pipeline), quiet(pipeline):
        micros, raws = _drawn(pipeline)
    by_ids = {_key(row): row for row in raws if _listed(row.get("input_ids"))}
    found: list[tuple[int, list[int], list[int], Mapping[str, Any]]] = []
    apart, spans_of_first, count = "", [], 0
    for number, (inputs, rows) in enumerate(micros):
        sources = [_source(row, by_ids) for row in rows]
        all_ids, all_labels = inputs["input_ids"].tolist(), inputs["labels"].tolist()
        for r, pieces in enumerate(_pieces(pipeline, inputs, rows)):
            spans = []
            for source, places in pieces:
                raw = sources[source] if source is not None else {}
                starts, why = _starts(inputs, r, places, raw)
                apart = apart or why
                for start, stop in itertools.pairwise([*starts, len(places)]):
                    own = places[start:stop]
                    if not own:
                        continue
                    spans.append((own[0], own[-1] + 1))
                    ids = [all_ids[r][t] for t in own]
                    labels = [all_labels[r][t] if t else IGNORED for t in own]
                    row = count + (source if source is not None else r)
                    found.append((row, ids, labels, raw if len(starts) == 1 else {}))
            if len(pieces) > 1:
                apart = apart or _says_apart(inputs)
            if number == 0:
                spans_of_first.append(spans)
        count += len(rows)
    limit = _limit(pipeline)
    longest = max((len(ids) for _, ids, _, _ in found), default=0)
    bound = 0 if _wrapped(pipeline) else min(limit or longest, longest)
    made = [Document(row, ids, labels, raw, len(ids) >= bound) for row, ids, labels, raw in found]
    shifted = _shifted(found)
    if shifted and not labels_reach_model(pipeline):
        # A loss of the user's own takes them so: what follows is asked of labels beside their ids.
        made, shifted = [_beside_ids(one) for one in made], False
    return Documents(
        made,
        count,
        apart,
        limit,
        micros[0][0],
        spans_of_first,
        shifted,
    )


def _beside_ids(one: Document) -> Document:
    """Return a document whose labels are the next tokens with each beside its own token.

    The last label is of a token that the model is not given.
    """
    last = one.labels[-1]
    if last == IGNORED:
        return replace(one, labels=[IGNORED, *one.labels[:-1]])
    return replace(one, ids=[*one.ids, last], labels=[IGNORED, *one.labels])


def _drawn(pipeline: Pipeline) -> tuple[list[Micro], list[Mapping[str, Any]]]:
    """Return batches, and rows of the dataset among which theirs are."""
    trainer = pipeline.trainer
    if trainer is None:
        size = pipeline.args.train_batch_size * pipeline.args.gradient_accumulation_steps
        given: list[Micro] = [
            (micro.inputs, micro.rows)
            for one in drawn(pipeline, max(1, ROWS // size))
            for micro in one
        ]
        _refuse(given)
        return given, [row for _, rows in given for row in rows]
    data, raws = trainer.train_dataset, _some(trainer)
    try:
        return _loaded(trainer), raws
    except Skip:
        raise
    except Exception:  # a sampler of the user's own may know the whole dataset alone
        trainer.train_dataset, trainer.data_collator = data, pipeline.data_collator
    try:
        return _loaded(trainer), raws
    except Skip:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise Skip(f"the Trainer's loader raised {said}") from error


def _loaded(trainer: Any) -> list[Micro]:
    """Return batches of the Trainer's loader beside the rows that its collator was given."""
    calls = record_collator(trainer)
    micros: list[Any] = []
    for collated in trainer.get_train_dataloader():
        micros.append(collated)
        if sum(map(len, calls[: len(micros)])) >= ROWS:
            break
    paired = list(zip(micros, calls, strict=False))
    _refuse(paired)
    return paired


def _some(trainer: Any) -> list[Mapping[str, Any]]:
    """Have the Trainer's loader read a few rows, evenly spaced, and return them."""
    from torch.utils.data import Subset

    data = trainer.train_dataset
    if not is_indexable(data):
        rows = itertools.islice(iter(data), ROWS)
        return [dict(row) for row in rows if isinstance(row, Mapping)]
    batch = trainer.args.train_batch_size * trainer.args.world_size
    count = min(len(data), -(-ROWS // batch) * batch)
    chosen = [k * len(data) // count for k in range(count)]
    trainer.train_dataset = data.select(chosen) if hasattr(data, "select") else Subset(data, chosen)
    return [dict(row) for row in map(data.__getitem__, chosen) if isinstance(row, Mapping)]


def _refuse(micros: Sequence[Any]) -> None:
    if not micros:
        raise Skip("the loader yields no batch")
    for inputs, _ in micros:
        if not isinstance(inputs, Mapping) or "input_ids" not in inputs or "labels" not in inputs:
            raise Skip("the batches have no input_ids with labels")
        ids, labels = inputs["input_ids"], inputs["labels"]
        if getattr(ids, "shape", None) != getattr(labels, "shape", ()) or ids.dim() != 2:
            raise Skip("the batches have no label beside each token")


def _listed(value: Any) -> bool:
    return hasattr(value, "__iter__")


def _key(row: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(map(int, row["input_ids"]))


def _source(row: Mapping[str, Any], by_ids: Mapping[Any, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = by_ids.get(_key(row), row) if _listed(row.get("input_ids")) else row
    return found


def _pieces(
    pipeline: Pipeline, inputs: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[list[tuple[int | None, list[int]]]]:
    """Return for each row of the batch the collator's rows in it, each with its places."""
    ids = inputs["input_ids"].tolist()
    if len(rows) > len(ids) == 1:
        lengths = [len(row.get("input_ids", ())) for row in rows]
        if all(lengths) and sum(lengths) <= len(ids[0]):
            ends = [0, *itertools.accumulate(lengths)]
            return [[(k, list(range(ends[k], ends[k + 1]))) for k in range(len(rows))]]
    mask = inputs.get("attention_mask")
    attended = mask.tolist() if mask is not None and mask.shape == inputs["input_ids"].shape else []
    found: list[list[tuple[int | None, list[int]]]] = []
    for r, row_ids in enumerate(ids):
        source = r if len(rows) == len(ids) else None
        own = rows[r] if source is not None else {}
        places = _own_places(row_ids, own)
        if places is None and attended:
            places = [t for t, one in enumerate(attended[r]) if one]
        if places is None:
            labels = inputs["labels"][r].tolist()
            pad = getattr(pipeline.tokenizer, "pad_token_id", None)
            text = [t for t, token in enumerate(row_ids) if token != pad or labels[t] != IGNORED]
            places = list(range(text[0], text[-1] + 1)) if text else []
        found.append([(source, places)])
    return found


def _own_places(ids: list[int], row: Mapping[str, Any]) -> list[int] | None:
    """Return where the collator's row lies in the batch's, without what its own mask hides."""
    given = row.get("input_ids")
    if given is None:
        return None
    own = [int(token) for token in given]
    for start in dict.fromkeys((0, len(ids) - len(own))):
        if own and start >= 0 and ids[start : start + len(own)] == own:
            mask = row.get("attention_mask")
            kept = [1] * len(own) if mask is None or len(mask) != len(own) else mask
            return [start + k for k, one in enumerate(kept) if one]
    return None


def _starts(
    inputs: Mapping[str, Any], r: int, places: Sequence[int], raw: Mapping[str, Any]
) -> tuple[list[int], str]:
    """Return where documents begin, counted from the first place, and what says so."""
    shape = inputs["input_ids"].shape
    for name in ("position_ids", "seq_idx"):
        value = inputs.get(name)
        if value is None or tuple(value.shape) != tuple(shape):
            continue
        whole = value[r].tolist()
        said = [whole[t] for t in places]
        again = [
            k
            for k in range(1, len(said))
            if (said[k] <= said[k - 1] if name == "position_ids" else said[k] != said[k - 1])
        ]
        if again:
            return [0, *again], name
    borders = inputs.get("cu_seq_lens_q", inputs.get("cu_seqlens"))
    if borders is not None and len(shape) == 2 and shape[0] == 1 and places:
        inside = {int(one) - places[0] for one in borders.flatten().tolist()}
        again = sorted(k for k in inside if 0 < k < len(places))
        if again:
            return [0, *again], "cu_seq_lens"
    positions = raw.get("position_ids")
    if positions is not None and "position_ids" not in inputs:
        own = [int(one) for one in positions]
        again = [k for k in range(1, len(own)) if own[k] <= own[k - 1]]
        if len(own) == len(places) and again:
            return [0, *again], "position_ids of the rows"
    lengths = list(raw.get("seq_lengths") or ())
    if len(lengths) > 1 and sum(lengths) == len(places):
        return [0, *itertools.accumulate(lengths[:-1])], "seq_lengths"
    return [0], ""


def _says_apart(inputs: Mapping[str, Any]) -> str:
    known = ("position_ids", "seq_idx", "cu_seq_lens_q", "cu_seqlens")
    return next((name for name in known if name in inputs), "the rows given to the collator")


def _limit(pipeline: Pipeline) -> int | None:
    for name in ("max_length", "max_seq_length"):
        value = getattr(pipeline.args, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _wrapped(pipeline: Pipeline) -> bool:
    args = pipeline.args
    strategy = getattr(args, "packing_strategy", None)
    return bool(getattr(args, "packing", False)) and strategy == "wrapped"


def _shifted(found: Sequence[tuple[int, list[int], list[int], Any]]) -> bool:
    """Return whether more labels are those of the next place than of their own."""
    own = after = 0
    for _, ids, labels, _ in found:
        for t, label in enumerate(labels):
            if label != IGNORED:
                own += label == ids[t]
                after += t + 1 < len(ids) and label == ids[t + 1]
    return after > own
