"""TS117 tokenizer.answers_have_their_header."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.chat_template import ASSISTANT, ChatTemplate
from trainsanity.measurements.batches.documents import Documents
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

LEAST = 8
"""Rows with the template's tokens that are no accident.  Chosen, not measured: one row is enough to
show that the header is trained, so that few have to be looked at."""

SHOWN = 2
"""Tokens of a header that a finding quotes: the opening one, and the name or its beginning."""


@check("TS117", "tokenizer.answers_have_their_header", needs=("tokenizer",),
       rules_out="names of roles")  # fmt: skip
def answers_have_their_header(
    pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate
) -> Iterator[Measured | Finding]:
    """Rendered conversations hold the header by which the model is asked for an answer.

    What it checks: rows in which the chat template's own special tokens stand, for the beginning of
    the assistant's header, which is what the generation prompt ends with.

    Why it matters: most templates write any role as it is named in the data. Conversations whose
    roles are `human` and `gpt`, or `bot`, or `model`, are rendered without a word, and teach the
    model to answer behind `<|im_start|>gpt`. At inference it is asked by `<|im_start|>assistant`,
    which no training row has.

    How it is measured: exact, on 64 rows. Special tokens that end texts or fill rows are left out,
    as are rows without any of the template's, and conversations that are cut at max_length. A
    single row with the header is enough.

    How to fix: name the roles as the template does, before it renders them.

    Bad::

        {"role": "human", "content": "..."}, {"role": "gpt", "content": "..."}

    Good::

        {"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}

    Known false alarms: inference with another template than the tokenizer's.

    References: NVIDIA-NeMo/Megatron-Bridge#5078.
    """
    tokenizer = pipeline.tokenizer
    header = chat_template.headers.get(ASSISTANT, ())
    others = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
    every = [*chat_template.headers.values(), *chat_template.closers.values()]
    marks = {token for ids in every for token in ids} & chat_template.special - others
    if not header or not marks:
        raise Skip("the chat template writes no special tokens of its own around messages")
    # What follows the name, as a channel or a thought, differs from answer to answer.
    asked = header[:2] if header[0] in chat_template.special else header
    limit = documents.limit
    # What truncation takes says nothing of what was rendered; blocks hold several documents.
    kept = [one for one in documents.found if not (one.raw and limit and len(one.ids) >= limit)]
    if documents.found and not kept:
        raise Skip(f"all of {len(documents.found)} rows are cut at max_length {limit}")
    rows = [one for one in kept if marks.intersection(one.ids)]
    having = sum(bool(_places(one.ids, asked)) for one in rows)
    if len(rows) >= max(LEAST, len(kept) / 2) and not having:
        text = str(tokenizer.decode(list(asked)))
        opening: Counter[str] = Counter(
            str(tokenizer.decode(list(one.ids[t : t + SHOWN])))
            for one in rows
            for t in _places(one.ids, asked[:1])
        )
        shown = " and ".join(repr(words) for words, _ in opening.most_common(2))
        yield Finding(
            f"none of {len(rows)} rows holds {text!r}, by which the generation prompt asks for an "
            "answer" + (f"; they hold {shown}" if shown else ""),
            observed=0,
            expected=len(rows),
            where=f"row {rows[0].row} of those drawn",
            cause="the roles have other names in the data than in the chat template (human and gpt "
            "for user and assistant), which writes them as they are",
            fix="rename the roles to user and assistant before the chat template renders them",
        )
    yield Measured(
        f"the assistant's header is in {having} of {len(rows)} rows that hold the chat template's "
        "special tokens",
        having,
        len(rows),
    )


def _places(ids: Sequence[int], part: Sequence[int]) -> list[int]:
    size = len(part)
    return [t for t in range(len(ids) - size + 1) if tuple(ids[t : t + size]) == tuple(part)]
