"""TS233 dataset.rows_are_single_examples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.fields import plain_values
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.data.known_tokens import first_rows
from trainsanity.types import Finding, Measured, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 64
"""Rows that are read as text."""

MOST = 0.9
"""Share of rows from which on lists in them are no content.  The last batch of rows that a
function was mapped over may have been of one row."""

STRING = r"""(?:'(?:[^'\\]|\\.)*'|"(?=[^"]*')(?:[^"\\]|\\.)*")"""
"""A string as Python prints it: in double quotes only where it holds a single one. JSON has them
everywhere."""

LIST = re.compile(rf"\[\s*({STRING}(?:\s*,\s*{STRING})+)\s*\]")
PART = re.compile(
    r"""\{\s*(?:'type'\s*:\s*'text'\s*,\s*'text'\s*:|'text'\s*:.*?'type'\s*:\s*'text'"""
    r"""|'role'\s*:\s*'\w+'\s*,\s*'content'\s*:|'content'\s*:.*?'role'\s*:\s*'\w+')""",
    re.DOTALL,
)
"""A message, or a part of one, as Python prints it; JSON, which is taught on purpose, has other
quotes."""

ITEM = re.compile(STRING)

CODE = re.compile(r"(?:(?<!content)=|\()\s*\[?\s*$")
"""What stands before a list of messages in a program: an assignment, or a call. An object that is
printed has its content so."""

LONG = 32
"""Characters from which on a string is no word, where nobody writes blanks. Chosen."""


@check(
    "TS233",
    "dataset.rows_are_single_examples",
    needs=("tokenizer", "train_dataset"),
    rules_out="batched map",
)
def rows_are_single_examples(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """A row is one example as text, not a Python list or dictionary that was printed.

    What it checks: whether rows, as text, hold lists of strings as Python prints them, two or more
    of one length in each row: the columns of several examples. And whether they hold messages, or
    parts of messages, as they are printed: ``{'type': 'text', 'text': ...}``.

    Why it matters: a function that formats one row is mapped with ``batched=True`` and is given
    columns.  Each batch becomes one text with the lists of all questions and all answers in it:
    there are a thousand times fewer rows, and what they teach is brackets and quotes. A chat
    template that was written for text prints contents that come in parts; nothing raises.

    How it is measured: exact, on 64 rows.  It is a failure where nine in ten rows hold such lists,
    all of one length within the row and in all of these rows, as batches are: single ones occur in
    code, words and their tags are as many as the row's sentence has, and JSON has other quotes.
    One item a row is a text, with a blank in it or of more than
    32 characters. The same for a dictionary of ``type`` and
    ``text``, or of ``role`` and ``content``, in Python's quotes, unless it is assigned or handed to
    a function: that is a program.

    How to fix: format row by row, or write a function for columns; join the parts of a content, or
    take a template that knows them.

    Bad::

        dataset.map(lambda row: {"text": f"{row['question']} {row['answer']}"}, batched=True)

    Good::

        dataset.map(lambda row: {"text": f"{row['question']} {row['answer']}"})

    Known false alarms: data in which every row is a task about two Python lists of texts, all of
    one length.

    References: huggingface/trl#439, avalan-ai/avalan#601.
    """
    ids = [plain_values(row.get("input_ids")) for row in first_rows(pipeline)[:ROWS]]
    rows = [row for row in ids if isinstance(row, list) and row]
    if not rows or not all(isinstance(token, int) for row in rows for token in row):
        raise Skip("the rows hold no token ids of one sequence")
    with preserved(pipeline), quiet(pipeline):
        texts = [str(pipeline.tokenizer.decode(row)) for row in rows]
    sizes = [lists_in(text) for text in texts]
    batches = [one for one in sizes if len(one) > 1 and len(set(one)) == 1]
    usual = Counter(one[0] for one in batches).most_common(1)
    # All batches but the last are of one size, and one of the columns holds texts.
    batches = [one for one in batches if one[0] == usual[0][0]]
    worded = sum(any(" " in one or len(one) > LONG for one in items_in(text)) for text in texts)
    if len(batches) >= MOST * len(rows) and worded >= MOST * len(rows):
        yield Finding(
            f"{len(batches)} of {len(rows)} rows hold lists of strings as Python prints them, "
            f"{len(batches[0])} lists of {batches[0][0]} in the first",
            observed=len(batches),
            expected=0,
            where="input_ids",
            cause="a function that formats one row was mapped with batched=True: it was given "
            "columns, and wrote lists of several examples into one text",
            fix="map it without batched=True, or format each element of the columns",
        )
    printed = [
        one.group()
        for text in texts
        if (one := PART.search(text)) and not CODE.search(text[: one.start()])
    ]
    many = len(printed)
    if many >= MOST * len(rows):
        yield Finding(
            f"{many} of {len(rows)} rows hold messages, or parts of them, as Python prints them: "
            f"{printed[0][:60]}",
            observed=many,
            expected=0,
            where="input_ids",
            cause="the chat template, or a format string, was given a list of parts where it takes "
            "text",
            fix="join the texts of the parts first, or take a template that reads parts",
        )
    yield Measured(
        f"{len(batches)} of {len(rows)} rows hold several printed lists of one length, {many} a "
        "printed message",
        {"lists": len(batches), "messages": many},
        {"lists": 0, "messages": 0},
    )


def items_in(text: str) -> list[str]:
    """Return the strings of all lists that a text holds as Python prints them."""
    return [item for hit in LIST.finditer(text) for item in ITEM.findall(hit[1])]


def lists_in(text: str) -> list[int]:
    """Return the lengths of the lists of strings that a text holds as Python prints them."""
    return [len(ITEM.findall(hit[1])) for hit in LIST.finditer(text)]
