"""TS115 tokenizer.messages_keep_their_roles."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.batches.turns import Turns
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of messages from which those under the other's header are no exception."""


@check("TS115", "tokenizer.messages_keep_their_roles", needs=("tokenizer",),
       rules_out="exchanged roles")  # fmt: skip
def messages_keep_their_roles(turns: Turns) -> Iterator[Measured | Finding]:
    """Messages stand under the header of whoever says them in the data.

    What it checks: the messages of user and assistant in a column of conversations (`role` and
    `content`, or `from` and `value`, with the names of ShareGPT) against the headers that they
    stand under in the row; and that not every conversation is begun by the assistant and ended by
    the user.

    Why it matters: roles that are given by position are off by one as soon as a conversation begins
    with a system message. The questions are then the assistant's and are trained, and the answers
    are what the user says.

    How it is measured: exact, on 64 rows: headers are found by rendering a conversation, and
    contents are compared without blanks. A message that both say is under its own header. From half
    of the messages on it is a failure, below a warning. System messages are left out, because they
    are often put into the user's. Rows as long as the longest one give no evidence of who ends.

    How to fix: take each role from its message.

    Bad::

        roles = ["user", "assistant"] * len(conversation)

    Good::

        roles = [{"human": "user", "gpt": "assistant"}[m["from"]] for m in conversation]

    Known false alarms: a simulator of users, which is trained on what users say beside a column
    that has the roles as they were; name the check in expected_failures.

    References: hiyouga/LlamaFactory#7651.
    """
    strays = turns.strays
    if strays:
        first = strays[0]
        yield Finding(
            f"{len(strays)} of {turns.messages} messages stand under another header: the "
            f"{first.said} says {first.content!r}, and the row has it as the {first.shown}'s",
            observed=len(strays),
            expected=0,
            where=in_training_order(first.row),
            cause="roles were given by position (user first, then in turn), or under wrong names",
            fix="take each role from its message",
            severity=Severity.FAILURE if len(strays) >= MOST * turns.messages else Severity.WARNING,
        )
    elif 1 < turns.talks == len(turns.exchanged):
        yield Finding(
            f"all of {turns.talks} conversations begin with the assistant and end with the user",
            observed=turns.talks,
            expected=0,
            where=in_training_order(turns.exchanged[0]),
            cause="user and assistant are exchanged: what is trained is what the user says",
            fix="look at the function that names the roles, and exchange them",
        )
    yield Measured(
        f"{turns.messages} messages found in {turns.rows} rows, {len(strays)} of them under "
        f"another's header; {len(turns.exchanged)} of {turns.talks} conversations are begun by the "
        "assistant and ended by the user",
        len(strays) + len(turns.exchanged),
        0,
    )
