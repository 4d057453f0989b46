"""Unknown tokens and masks in the first rows, as they are in the dataset."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.objectives.base import IGNORED, MULTI_LABEL, REGRESSION, SINGLE_LABEL, TOKENS
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 256

PROBES = 64
"""Words of the vocabulary that are written with a capital."""

ALIKE, LENGTHS = 0.9, 8
"""Share of rows with one number of unknown tokens, and how many lengths they have, from which on
it is not their content that is unknown.  The last batch of a map may be smaller."""


@dataclass
class KnownTokens:
    """Counts over the first rows of the training data.

    Attributes:
        rows: how many were read.
        inputs: tokens in them, without padding.
        unknown_inputs: those of them that are the unknown token.
        targets: labels that are tokens and counted.
        unknown_targets: those of them that are the unknown token.
        masked: rows that hold the mask token where there is a label.
        same_again: whether the collator makes the same of such a row twice.
        by_row: input tokens of each row, and how many of them are unknown.
        begun: rows whose first token, special ones aside, is unknown.
        capitals: words of the vocabulary that were written with a capital, of which the tokenizer
            knows none then; 0 if it knows some.
    """

    rows: int = 0
    inputs: int = 0
    unknown_inputs: int = 0
    targets: int = 0
    unknown_targets: int = 0
    masked: int = 0
    same_again: bool = False
    by_row: list[tuple[int, int]] = field(default_factory=list)
    begun: int = 0
    capitals: int = 0

    @property
    def in_each_row(self) -> int:
        """How many unknown tokens nearly every row has, whatever its length; 0 if they differ."""
        if not self.by_row:
            return 0
        (most, count), *_ = Counter(unknown for _, unknown in self.by_row).most_common(1)
        lengths = {length for length, unknown in self.by_row if unknown == most}
        return most if count >= ALIKE * len(self.by_row) and len(lengths) >= LENGTHS else 0


@measurement(Cost.STATIC)
def known_tokens(pipeline: Pipeline) -> KnownTokens:
    """Count unknown tokens and masks in the first rows.

    Raises:
        Skip: there is no tokenizer, or no row of token ids.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not hasattr(tokenizer, "unk_token_id"):
        raise Skip("the pipeline has no tokenizer")
    unknown = tokenizer.unk_token_id
    pad = tokenizer.pad_token_id  # looked up once: a tokenizer computes it anew each time
    others = {pad, tokenizer.eos_token_id, tokenizer.bos_token_id}
    if unknown in others:
        unknown = None  # one token with two meanings cannot be counted
    mask = getattr(tokenizer, "mask_token_id", None)
    as_tokens = labels_are_tokens(pipeline)
    seen = KnownTokens()
    example = None
    special = set(tokenizer.all_special_ids) - {unknown}
    for row in first_rows(pipeline):
        ids, labels = flat(row.get("input_ids")), flat(row.get("labels"))
        if not ids and not (labels and as_tokens):
            continue
        seen.rows += 1
        attended = flat(row.get("attention_mask")) or [1] * len(ids)
        kept = [i for i, m in zip(ids, attended, strict=False) if m and i != pad]
        seen.inputs += len(kept)
        unknown_here = sum(i == unknown for i in kept)
        seen.unknown_inputs += unknown_here
        if ids:
            seen.by_row.append((len(kept), unknown_here))
            seen.begun += next((i for i in kept if i not in special), None) == unknown
        if as_tokens and labels:
            counted = [y for y in labels if y not in (IGNORED, pad)]
            seen.targets += len(counted)
            seen.unknown_targets += sum(y == unknown for y in counted)
        if mask is not None and len(ids) == len(labels):
            pairs = zip(ids, labels, strict=True)
            hidden = [y for i, y in pairs if i == mask and y not in (IGNORED, mask)]
            if hidden and labels.count(IGNORED) > len(labels) / 2:
                seen.masked += 1
                example = example or row
    if not seen.rows:
        raise Skip("the rows hold no token ids")
    if seen.unknown_inputs and unknown is not None:
        with preserved(pipeline), quiet(pipeline):
            seen.capitals = _without_capitals(tokenizer)
    if example is not None:
        seen.same_again = _same_again(pipeline, dict(example))
    return seen


def _without_capitals(tokenizer: Any) -> int:
    """Return how many words of the vocabulary were tried; 0 if it knows one with a capital.

    A vocabulary in lower case has a tokenizer that writes texts in lower case before it looks.
    """
    tried = 0
    words = ((w, n) for w, n in tokenizer.get_vocab().items() if w.isalnum() and w.islower())
    # Of some vocabularies most words are the rest of longer ones.
    for word, number in itertools.islice(words, 16 * PROBES):
        if tried >= PROBES:
            break
        capital = word.capitalize()
        # Words that the tokenizer itself would find, and not as the rest of a longer one.
        if tokenizer(word, add_special_tokens=False)["input_ids"] != [number]:
            continue
        if tokenizer.unk_token_id not in tokenizer(capital, add_special_tokens=False)["input_ids"]:
            return 0
        tried += 1
    return tried


def labels_are_tokens(pipeline: Pipeline) -> bool:
    """Return whether the labels are ids of a vocabulary: the model has a head of its size."""
    if objective_of(pipeline).name in (TOKENS, SINGLE_LABEL, MULTI_LABEL, REGRESSION):
        return False
    model = pipeline.model
    if any(name.rpartition(".")[2] == "lm_head" for name, _ in model.named_modules()):
        return True
    try:
        return model.get_output_embeddings() is not None
    except (AttributeError, NotImplementedError, TypeError):
        return False


def first_rows(pipeline: Pipeline) -> list[Mapping[str, Any]]:
    """Return the first rows; of a table only the columns of tokens, so that no image is decoded."""
    data = pipeline.train_dataset
    with preserved(pipeline):
        names = getattr(data, "column_names", None)
        plain = getattr(data, "_format_type", "custom") != "custom"
        if names and plain and hasattr(data, "select_columns") and is_indexable(data):
            wanted = [n for n in ("input_ids", "labels", "attention_mask") if n in names]
            if not wanted:
                return []
            few = data.select(range(min(ROWS, len(data)))).select_columns(wanted)
            return list(few.with_format(None))
        rows: Iterator[Any]
        if is_indexable(data):
            rows = (data[k] for k in range(min(ROWS // 4, len(data))))
        else:
            rows = itertools.islice(data, ROWS // 4)
        return [row for row in rows if isinstance(row, Mapping)]


def flat(values: Any) -> list[int]:
    """Return a flat list of whole numbers; empty for anything else."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        return []
    return list(values) if all(isinstance(value, int) for value in values) else []


def _same_again(pipeline: Pipeline, row: dict[str, Any]) -> bool:
    import torch

    if pipeline.data_collator is None:
        return True
    made = []
    with preserved(pipeline):
        for _ in range(2):
            batch = pipeline.data_collator([dict(row), dict(row)])
            made.append(batch["labels"] if isinstance(batch, Mapping) else None)
    first, second = made
    if not torch.is_tensor(first) or not torch.is_tensor(second):
        return False
    return first.shape == second.shape and bool((first == second).all())
