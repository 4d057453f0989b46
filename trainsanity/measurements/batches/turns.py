"""Turns of conversations in rows as they are trained: who says what, and what is inside them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import (
    ASSISTANT,
    SYSTEM,
    USER,
    ChatTemplate,
    Message,
    messages_in,
)
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SPEAKERS = {
    **dict.fromkeys(("user", "human"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), ASSISTANT),
}
"""Names that data sets give to the two who talk.  A system message is often put into the user's."""

_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Stray:
    """A message that stands under another's header.

    Attributes:
        row: its row's number among those that were drawn.
        content: its first words.
        said, shown: whose it is in the data, and in the row.
    """

    row: int
    content: str
    said: str
    shown: str


@dataclass
class Turns:
    """Turns of a few rows.

    Attributes:
        rows: rows with a header of the chat template.
        nested: of those, numbers of rows in which a header opens right behind a header.
        opened: what stands there in the first of them.
        talks: whole rows with at least two turns of user and assistant.
        exchanged: of those, numbers of rows that the assistant begins and the user ends.
        messages: messages of the data's user and assistant that were found in their rows.
        strays: those that stand under the other's header alone.
    """

    rows: int = 0
    nested: list[int] = field(default_factory=list)
    opened: str = ""
    talks: int = 0
    exchanged: list[int] = field(default_factory=list)
    messages: int = 0
    strays: list[Stray] = field(default_factory=list)


@measurement(Cost.STATIC)
def turns(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Turns:
    """Divide a few rows into the messages of the chat template.

    Raises:
        Skip: there is no chat template whose headers are known, or no row has one.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not chat_template.headers:
        raise Skip("there is no chat template, or its headers are not known")
    found = Turns()
    with preserved(pipeline), quiet(pipeline):
        for one in documents.found:
            messages = messages_in(one.ids, chat_template, tokenizer)
            if not messages:
                continue
            found.rows += 1
            _nested(found, one, messages, chat_template, tokenizer)
            said = [m.role for m in messages if m.role != SYSTEM]
            if len(said) > 1 and not one.cut:
                found.talks += 1
                if said[0] == ASSISTANT and said[-1] == USER:
                    found.exchanged.append(one.row)
            _strays(found, one, messages, tokenizer)
    if not found.rows:
        raise Skip("no row has the headers of the chat template")
    return found


def _nested(
    found: Turns, one: Document, messages: Sequence[Message], template: ChatTemplate, tokenizer: Any
) -> None:
    """Look for a header behind a header, of the same role or of a system message.

    No template writes that: an empty message has its closer, and the next one another role.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    for here, after in itertools.pairwise(messages):
        if after.role not in (here.role, SYSTEM):
            continue
        begins = here.header + len(template.headers[here.role])
        between = [token for token in one.ids[begins : after.header] if token != bos]
        # A header of plain words may be what somebody says twice.
        marked = template.special.intersection(one.ids[after.header : after.start])
        if marked and not str(tokenizer.decode(between)).strip():
            found.nested.append(one.row)
            found.opened = found.opened or str(
                tokenizer.decode(one.ids[here.header : after.start], skip_special_tokens=False)
            )
            return


def _strays(found: Turns, one: Document, messages: Sequence[Message], tokenizer: Any) -> None:
    """Hold who says what in the row's column against whose header it stands under."""
    said = _said(one.raw)
    if not said:
        return
    shown: dict[str, set[str]] = {}
    for message in messages:
        text = _plain(tokenizer, one.ids[message.start : message.stop])
        shown.setdefault(text, set()).add(message.role)
    for role, content in said:
        ids = tokenizer(content, add_special_tokens=False)["input_ids"]
        roles = shown.get(_plain(tokenizer, ids))
        if roles is None:
            continue
        found.messages += 1
        if role not in roles:
            other = next(iter(sorted(roles)))
            found.strays.append(Stray(one.row, content[:40], role, other))


def _said(raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what user and assistant say in the first column of messages, in either form."""
    for value in raw.values():
        if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
            continue
        said = []
        for message in value:
            role = SPEAKERS.get(str(message.get("role", message.get("from"))).lower())
            content = message.get("content", message.get("value"))
            if role and isinstance(content, str) and content.strip():
                said.append((role, content))
        if said:
            return said
    return []


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    return _SPACE.sub("", str(tokenizer.decode(list(ids), skip_special_tokens=False)))
