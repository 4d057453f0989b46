"""TS231 dataset.conversations_are_usable."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.talks import Talks
from trainsanity.types import Finding, Measured, Severity

MOST = 0.5
"""Share of rows from which what is odd about them is no exception."""


@check("TS231", "dataset.conversations_are_usable", needs=("train_dataset",),
       rules_out="conversations")  # fmt: skip
def conversations_are_usable(talks: Talks) -> Iterator[Measured | Finding]:
    """Rows of conversations have messages, roles that are known, and answers that say something.

    What it checks: 64 rows of `messages`, `conversations`, or `prompt` with `completion`, `chosen`
    and `rejected`: that none is empty, that the roles are those that the chat template writes, that
    answers are not empty, and that the template renders them.

    Why it matters: an answer without a word teaches to stop at once. Under a role that the template
    does not know, as `gpt` and `human` of ShareGPT, what is trained is no answer to the prompt that
    generation writes. A template that raises on the data's conversations was not what made the
    rows.

    How it is measured: exact, on the rows as they are stored. Messages with calls of tools or with
    reasoning are not empty. Each finding is a warning where it is true of fewer than half of the
    rows, and a failure from there on; unknown roles beside known ones, and a template that refuses
    some conversations, are a warning.

    How to fix: leave these rows out; rename the roles.

    Bad::

        [{"role": "human", "content": "..."}, {"role": "gpt", "content": "..."}]

    Good::

        [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]

    Known false alarms: roles of a play that a template of one's own writes as they come.

    References: read: transformers.PreTrainedTokenizerBase.apply_chat_template.
    """
    for rows, words, cause, fix in (
        (talks.without, "have no messages", "the column is empty or null there",
         "leave them out: filter(lambda row: row['messages'])"),
        (talks.empty, "have an answer that says nothing",
         "empty completions: the model learns to stop at once", "leave them out"),
        (talks.unanswered, f"have no message of the assistant, and the roles {_names(talks)}",
         "the roles are named as in another format (ShareGPT has human and gpt)",
         "rename them to user and assistant"),
    ):  # fmt: skip
        numbers = sorted(set(rows))
        if numbers:
            yield Finding(
                f"{len(numbers)} of {talks.rows} rows {words}",
                observed=len(numbers),
                expected=0,
                where=f"row {numbers[0]} of train_dataset",
                cause=cause,
                fix=fix,
                severity=_severity(len(numbers), talks.rows),
            )
    if talks.unknown and not talks.unanswered:
        yield Finding(
            f"the roles {_names(talks)} are none that the chat template names",
            observed=sorted(talks.unknown),
            expected="system, user, assistant, tool",
            cause="the template writes them as they come, or leaves them out",
            fix="rename them, or use a template with a branch for them",
            severity=Severity.WARNING,
        )
    if talks.refused:
        yield Finding(
            f"the chat template raises on {len(talks.refused)} of {talks.rows} rows: {talks.error}",
            observed=len(talks.refused),
            expected=0,
            where=f"row {talks.refused[0]} of train_dataset",
            cause="it does not take these roles in this order, or has an error",
            fix="mend the template, or the order of the messages; what is trained was made "
            "otherwise than what generation will be given",
            severity=Severity.WARNING,
        )
    roles = ", ".join(f"{n} {role}" for role, n in sorted(talks.roles.items())) or "texts alone"
    yield Measured(
        f"of {talks.rows} rows ({roles}) {len(set(talks.without))} lack messages, "
        f"{len(set(talks.empty))} have an empty answer, {len(talks.unanswered)} unknown roles "
        f"alone; the template raises on {len(talks.refused)}",
        len(set(talks.without)) + len(set(talks.empty)) + len(talks.unanswered),
        0,
    )


def _names(talks: Talks) -> str:
    return ", ".join(sorted(talks.unknown)) or "none"


def _severity(count: int, rows: int) -> Severity:
    return Severity.FAILURE if count >= MOST * rows else Severity.WARNING
