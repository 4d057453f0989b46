"""Conversations of the dataset before they are rendered: roles, empty ones, what is refused."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import is_indexable
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ASSISTANT, tools_of
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 64
"""Rows that are read: what is wrong with one row in twenty is among them with 96 %."""

COLUMNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
"""Columns that hold messages, or texts of them."""

ANSWERS = ("completion", "chosen", "rejected")
"""Columns that are answers."""

KNOWN = frozenset(
    {"system", "user", ASSISTANT, "tool", "function", "ipython", "observation", "developer"}
)
"""Roles that templates write without naming them, by ``message['role']``."""


@dataclass
class Talks:
    """Conversations of a few rows.

    Attributes:
        rows: how many have such a column.
        without: numbers of rows whose column of messages is empty or null.
        empty: numbers of rows with an answer that says nothing.
        answers: answers that were looked at.
        roles: how often each role speaks.
        unknown: of those, roles that neither the template nor anybody knows.
        unanswered: numbers of rows that have an unknown role, and no assistant.
        rendered: conversations that the template was given.
        refused: numbers of those on which it raised.
        error: what it said of the first.
    """

    rows: int = 0
    without: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    answers: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    unknown: set[str] = field(default_factory=set)
    unanswered: list[int] = field(default_factory=list)
    rendered: int = 0
    refused: list[int] = field(default_factory=list)
    error: str = ""


@measurement(Cost.STATIC)
def talks(pipeline: Pipeline) -> Talks:
    """Read messages of a few rows of the training data, and render each conversation.

    Raises:
        Skip: no row has a column of messages, prompts or completions.
    """
    found = Talks()
    template = str(getattr(pipeline.tokenizer, "chat_template", None) or "")
    with preserved(pipeline), quiet(pipeline):
        for number, row in spread_rows(pipeline.train_dataset):
            columns = [name for name in COLUMNS if name in row]
            if not columns:
                continue
            found.rows += 1
            _look(found, number, row, columns, template, _ends(pipeline.tokenizer))
            if template:
                _render(found, number, row, columns, pipeline.tokenizer)
    if not found.rows:
        raise Skip("the rows hold no messages, prompts or completions")
    return found


def spread_rows(data: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield up to :data:`ROWS` rows with their numbers, evenly spaced; of a stream the first."""
    if data is None:
        return
    if is_indexable(data):
        count = min(len(data), ROWS)
        for place in (k * len(data) // count for k in range(count)):
            if isinstance(row := data[place], Mapping):
                yield place, row
        return
    for number, row in enumerate(itertools.islice(iter(data), ROWS)):
        if isinstance(row, Mapping):
            yield number, row


def _ends(tokenizer: Any) -> str:
    """Return the token that TRL writes behind an answer that is a text; empty if there is none."""
    return str(getattr(tokenizer, "eos_token", None) or "")


def _look(  # noqa: PLR0917 - a row and what it is read by
    found: Talks,
    number: int,
    row: Mapping[str, Any],
    columns: Sequence[str],
    template: str,
    end: str = "",
) -> None:
    roles: set[str] = set()
    for name in columns:
        value = row[name]
        if value is None or (name not in ANSWERS and not isinstance(value, str) and not value):
            found.without.append(number)
            continue
        if isinstance(value, str) and name in ANSWERS:
            found.answers += 1
            if not value.strip().removesuffix(end).strip():
                found.empty.append(number)
            continue
        if not isinstance(value, list):
            continue
        if name in ANSWERS and not value:
            found.answers += 1
            found.empty.append(number)
        for message in value:
            if not isinstance(message, Mapping) or "role" not in message:
                continue
            role = str(message["role"])
            roles.add(role)
            found.roles[role] += 1
            if role == ASSISTANT or name in ANSWERS:
                found.answers += 1
                if _says_nothing(message):
                    found.empty.append(number)
    strange = {role for role in roles - KNOWN if f"'{role}'" not in template
               and f'"{role}"' not in template}  # fmt: skip
    found.unknown |= strange
    if strange and ASSISTANT not in roles:
        found.unanswered.append(number)


def _says_nothing(message: Mapping[str, Any]) -> bool:
    """Return whether a message has no text, no parts, no thought and no call."""
    content = message.get("content")
    blank = not content.strip() if isinstance(content, str) else not content
    return blank and not any(
        message.get(k) for k in ("tool_calls", "reasoning_content", "thinking")
    )


def _render(
    found: Talks, number: int, row: Mapping[str, Any], columns: Sequence[str], tokenizer: Any
) -> None:
    """Render a row's conversation, with its prompt before its answer."""
    lists = {name: row[name] for name in columns if isinstance(row[name], list) and row[name]}
    before = lists.get("prompt", [])
    whole = [lists[name] for name in ("messages", "conversations") if name in lists]
    whole += [before + lists[name] for name in ANSWERS if name in lists]
    for talk in whole or ([before] if before else []):
        if not all(isinstance(m, Mapping) and "role" in m and "content" in m for m in talk):
            continue
        found.rendered += 1
        try:
            tokenizer.apply_chat_template(talk, tokenize=False, tools=tools_of(row))
        except Exception as error:  # jinja's, or whatever a template raises
            found.error = found.error or f"{type(error).__name__}: {first_line(error)}"
            if number not in found.refused:
                found.refused.append(number)
