"""TS247 dataset.inputs_are_shown."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.shown_inputs import FORMS, ShownInputs
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of rows from which a text that is left out is no exception."""


@check(
    "TS247",
    "dataset.inputs_are_shown",
    needs=("tokenizer", "train_dataset"),
    rules_out="inputs left out",
)
def inputs_are_shown(shown_inputs: ShownInputs) -> Iterator[Measured | Finding]:
    """Rows that are made of an instruction and an output hold the instruction's input, too.

    What it checks: language models' rows that still have the columns `instruction`, `input` and
    `output` (Alpaca's form), `instruction`, `context` and `response` (Dolly's), or `question`,
    `context` and `answer`: whether a row that holds the first and the last holds the second.

    Why it matters: "Summarise the text" without the text has no answer. The loss falls all the
    same, because answers resemble each other, and the model learns to make something up.

    How it is measured: exact, as text without blanks, on 64 rows; rows with an empty input, and
    rows that may be cut, are left out, and so is a text that several of them share ("N/A"). A
    failure where half of the rows of the first form lack their input. Of `context` it is a warning:
    questions without their text are a task of its own.

    How to fix: put the input into the prompt, where there is one.

    Bad::

        prompt = row["instruction"]

    Good::

        prompt = " ".join(filter(None, (row["instruction"], row["input"])))

    Known false alarms: a column `input` that is no part of what the instruction is about.

    References: tloen/alpaca-lora#362.
    """
    found = shown_inputs
    asked, about, answer = found.form
    if found.without:
        many = len(found.without) >= MOST * found.rows and found.form == FORMS[0]
        yield Finding(
            f"{len(found.without)} of {found.rows} rows hold {asked!r} and {answer!r}, and not "
            f"{about!r}: {found.example[:80]!r}",
            observed=len(found.without),
            expected=0,
            where=in_training_order(found.without[0]),
            cause=f"the prompt is made of {asked!r} alone",
            fix=f"put the column {about!r} into the prompt, where it is not empty",
            severity=Severity.FAILURE if many else Severity.WARNING,
        )
    yield Measured(
        f"of {found.rows} rows that hold {asked!r} and {answer!r} {len(found.without)} do not hold "
        f"{about!r}",
        len(found.without),
        0,
    )
