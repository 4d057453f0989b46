"""Pairs, and answers without a pair, as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ChatTemplate
from trainsanity.measurements.batches.conversations import (
    Conversation,
    Conversations,
    Sequence_,
    Writer,
)
from trainsanity.measurements.data.pairs import Pairs, Side, batches_of, common_prefix, sides_of
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ASKED = ("prompt", "completion")
"""Columns of rows that are questions with answers."""

MOST = 64
"""Rows that are shown at the most."""


@measurement(Cost.STATIC)
def shown_pairs(pipeline: Pipeline, pairs: Pairs, chat_template: ChatTemplate) -> Conversations:
    """Write the chosen side of each pair beside the rejected one.

    Raises:
        Skip: there is no tokenizer that could write them.
    """
    if pipeline.tokenizer is None:
        raise Skip("this pipeline has no tokenizer")
    writer = Writer(pipeline.tokenizer, chat_template)
    rows = []
    for k, (chosen, rejected) in enumerate(pairs.both[:MOST]):
        shared = common_prefix(chosen.ids, rejected.ids)
        sides = [
            _side(writer, side, title, shared)
            for side, title in ((chosen, "chosen"), (rejected, "rejected"))
        ]
        rows.append(Conversation(k, sides))
    return Conversations(rows)


@measurement(Cost.STATIC)
def shown_answers(pipeline: Pipeline, chat_template: ChatTemplate) -> Conversations:
    """Write prompts with their completions, or prompts alone, of the first batches.

    Raises:
        Skip: there is no tokenizer, or rows and batches hold no prompts and completions.
    """
    if pipeline.tokenizer is None:
        raise Skip("this pipeline has no tokenizer")
    columns = getattr(pipeline.train_dataset, "column_names", None) or ()
    if not any(word in name for name in columns for word in ASKED):
        raise Skip("the rows hold no prompts and completions")
    writer = Writer(pipeline.tokenizer, chat_template)
    rows: list[Conversation] = []
    trainer = pipeline.trainer
    try:
        for batch in batches_of(pipeline):
            rows += [
                Conversation(len(rows) + k, [one]) for k, one in enumerate(_rows(writer, batch))
            ]
            if len(rows) >= MOST or not rows:
                break
    except Skip:
        # A policy's batches are rows that generation is given.
        if trainer is None:
            raise
        with preserved(pipeline), quiet(pipeline):
            for several in trainer.get_train_dataloader():
                rows += [
                    Conversation(len(rows) + k, [made])
                    for k, row in enumerate(several)
                    if isinstance(row, Mapping) and (made := _prompt(writer, row)) is not None
                ]
                break
    if not rows:
        raise Skip("the batches hold no token ids that could be written")
    return Conversations(rows[:MOST])


def _side(writer: Writer, side: Side, title: str, shared: int) -> Sequence_:
    if side.counted is None:
        # The prompt is what both sides begin with.
        return writer.sequence(side.ids, [t >= shared for t in range(len(side.ids))], title, shared)
    first = len(side.ids) - len(side.counted)
    for at in range(len(side.ids) - len(side.counted) + 1):
        if side.ids[at : at + len(side.counted)] == side.counted:
            first = at
    counted = [first <= t < first + len(side.counted) for t in range(len(side.ids))]
    return writer.sequence(side.ids, counted, title, first)


def _rows(writer: Writer, batch: Mapping[str, Any]) -> Iterator[Sequence_]:
    """Yield the sequences of a batch with one answer a row."""
    prompts, completions = batch.get("prompt_input_ids"), batch.get("completion_input_ids")
    ids = batch.get("input_ids", completions)
    if ids is None or getattr(ids, "dim", lambda: 0)() != 2:
        return
    name = "input_ids" if "input_ids" in batch else "completion_input_ids"
    label = batch.get("label", batch.get("labels"))
    for k, side in enumerate(sides_of(batch, name, ids)):
        title = ""
        if label is not None and len(label) == len(ids) and not hasattr(label[k], "__len__"):
            title = "desirable" if bool(label[k]) else "undesirable"
        if name == "input_ids" or prompts is None:
            yield _side(writer, side, title, 0)
            continue
        asked = sides_of(batch, "prompt_input_ids", prompts)[k].ids
        whole = (*asked, *side.ids)
        counted = [t >= len(asked) for t in range(len(whole))]
        yield writer.sequence(whole, counted, title, len(asked))


def _prompt(writer: Writer, row: Mapping[str, Any]) -> Sequence_ | None:
    prompt = row.get("prompt")
    tokenizer = writer.tokenizer
    try:
        if isinstance(prompt, str):
            ids = tokenizer(prompt)["input_ids"]
        elif isinstance(prompt, list):
            text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            return None
    except Exception:  # jinja's, or whatever a template raises
        return None
    return writer.sequence(ids, [False] * len(ids), "prompt for generation")
