"""TS112 tokenizer.messages_are_in_rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.rendered import Rendered
from trainsanity.types import Finding, Measured, Severity, Skip

MANY = 0.1
"""Share of a role's messages from which it is not a matter of single texts."""


@check("TS112", "tokenizer.messages_are_in_rows", needs=("tokenizer",), rules_out="lost messages")
def messages_are_in_rows(rendered: Rendered) -> Iterator[Measured | Finding]:
    """Every message of a conversation is in the row that the chat template made of it.

    What it checks: the content of each message of ``messages``, or of ``prompt`` and
    ``completion``, is in the row's tokens; so is the reasoning that the last answer brings under a
    key of its own, as ``reasoning_content`` or ``thinking``, unless the template reads that key.

    Why it matters: a template without a branch for a role drops its messages: the system prompt
    that the answers were written under is in no row.  One that strips earlier reasoning, as
    Qwen3's does, trains answers without the thought that the data has: the model learns to skip it.
    A row that does not tell of its tools teaches to call functions that no prompt has named.

    How it is measured: exact, on 64 rows, as text without blanks.  Messages of tools and with
    tool_calls are left out; so is reasoning that is stripped from answers which are no target.
    Nothing is said where the rows hold no message of their column.  Of tools the names are looked
    for, and what the template writes of them; where it takes none it is a warning.

    How to fix: use a template that writes every role and keeps the reasoning, or train the last
    answer alone, as one row for each turn.

    Bad::

        {% for m in messages if m['role'] in ('user', 'assistant') %}

    Good::

        {% for m in messages %}

    Known false alarms: a template that rewrites contents by intent.  Where fewer than one in ten
    messages of a role is not found it is a warning.

    References: SUSTech-IDEA/SUS-Chat#3, fw-ai/cookbook#386, NVIDIA-NeMo/Megatron-Bridge#4072,
    jingyaogong/minimind#737.
    """
    if rendered.by_ids or not rendered.messages:
        raise Skip("the rows no longer have the messages that they were made of")
    lost = [one for one in rendered.missing if not one.thought]
    thoughts = [one for one in rendered.missing if one.thought and one.trained]
    for role, count in Counter(one.role for one in lost).items():
        first = next(one for one in lost if one.role == role)
        total = rendered.messages[role]
        yield Finding(
            f"the content of {count} of {total} {role} messages is not in its row: "
            f"{first.content!r}",
            observed=count,
            expected=0,
            where=in_training_order(first.row),
            cause=f"the chat template drops or rewrites messages of the role {role}",
            fix="use a template with a branch for that role",
            severity=_severity(count, total),
        )
    if thoughts:
        total = rendered.messages[thoughts[0].role]
        yield Finding(
            f"the reasoning of {len(thoughts)} of {total} answers is not in its row, and what is "
            f"left of them is trained: {thoughts[0].content!r}",
            observed=len(thoughts),
            expected=0,
            where=in_training_order(thoughts[0].row),
            cause="the chat template strips the thoughts of earlier turns, and all turns are "
            "trained: the model learns to answer without reasoning",
            fix="train the last answer alone (one row for each turn), or use a template that keeps "
            "the reasoning",
            severity=_severity(len(thoughts), total),
        )
    for key, rows in rendered.unread.items():
        yield Finding(
            f"{len(rows)} of {rendered.reasons} last answers bring their reasoning under {key!r}, "
            "which is not in their row: the chat template does not read that key",
            observed=len(rows),
            expected=0,
            where=in_training_order(rows[0]),
            cause="the template is of a model that does not reason, or looks for it under another "
            "key: the model learns to answer without it",
            fix=f"use a template that writes message[{key!r}], or drop the key from the messages "
            "if answers are to be given without reasoning",
            severity=_severity(len(rows), rendered.reasons),
        )
    if rendered.without_tools:
        count, total = len(rendered.without_tools), len(rendered.tools)
        yield Finding(
            f"{count} of {total} rows with tools do not tell of them",
            observed=count,
            expected=0,
            where=in_training_order(rendered.without_tools[0]),
            cause="apply_chat_template was called without tools="
            if rendered.takes_tools
            else "the chat template takes no tools",
            fix="apply_chat_template(messages, tools=row['tools'], ...), as at inference"
            if rendered.takes_tools
            else "use the chat template of a model that calls tools",
            severity=_severity(count, total) if rendered.takes_tools else Severity.WARNING,
        )
    total = rendered.messages.total()
    tools = (
        f"; {len(rendered.without_tools)} of {len(rendered.tools)} rows with tools do not tell of "
        "them"
        if rendered.tools
        else ""
    )
    yield Measured(
        f"{len(rendered.missing)} of {total} messages are not in their rows as a whole, "
        f"{len(lost)} of them with all they say{tools}",
        len(lost)
        + len(thoughts)
        + len(rendered.without_tools)
        + sum(map(len, rendered.unread.values())),
        0,
    )


def _severity(count: int, total: int) -> Severity:
    return Severity.FAILURE if count >= MANY * total else Severity.WARNING
