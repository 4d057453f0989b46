"""TS246 dataset.messages_hold_no_template."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.batches.turns import Turns
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of rows from which it is no exception: a text may be about a chat template."""


@check("TS246", "dataset.messages_hold_no_template", needs=("tokenizer",),
       rules_out="a template in a template")  # fmt: skip
def messages_hold_no_template(turns: Turns) -> Iterator[Measured | Finding]:
    """Messages are rendered once: none holds the chat template's own headers.

    What it checks: whether in rows of conversations a header of the chat template opens right
    behind a header of the same role, or a system message inside another's.

    Why it matters: a prompt that was rendered already and is put into a message is rendered again.
    Each row then opens a turn within a turn, and often an empty answer is closed between them. At
    inference there is one of each, and the model continues a form that it has never seen.

    How it is measured: exact, on the ids of 64 rows, blanks and BOS between the two headers aside.
    No template writes one header behind another: an empty message has its end. Headers without a
    special token are not judged. From half of the rows on it is a failure, below a warning.

    How to fix: put the text alone into the message.

    Bad::

        prompt = tokenizer.apply_chat_template(messages, tokenize=False)
        row = {"messages": [{"role": "user", "content": prompt}, answer]}

    Good::

        row = {"messages": [*messages, answer]}

    Known false alarms: data about chat templates, where more than half of the messages begin with
    one.

    References: THUDM/slime#1386.
    """
    if turns.nested:
        yield Finding(
            f"in {len(turns.nested)} of {turns.rows} rows a turn opens within a turn: "
            f"{turns.opened!r}",
            observed=len(turns.nested),
            expected=0,
            where=in_training_order(turns.nested[0]),
            cause="the message's content was rendered with the chat template already, and is "
            "rendered again",
            fix="put the plain text into the message, and let the template be applied once",
            severity=Severity.FAILURE
            if len(turns.nested) >= MOST * turns.rows
            else Severity.WARNING,
        )
    yield Measured(
        f"a turn opens within a turn in {len(turns.nested)} of {turns.rows} rows",
        len(turns.nested),
        0,
    )
