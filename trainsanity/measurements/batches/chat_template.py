"""Text that the chat template writes around messages, found by rendering a conversation with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

CONTENTS = {"s": "qzsystem", "u": "qzfirst", "a": "qzsecond", "v": "qzthird", "b": "qzfourth"}
"""Contents of the rendered messages; words that no template has."""

MARKS = r"<[|\uff5c][^<>\s]{1,40}[|\uff5c]>|</?s>|<\w+_of_\w+>"
"""Pattern of special tokens."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class ChatTemplate:
    """The ids that a chat template writes; blanks at their ends are left out.

    Attributes:
        headers: by role, what stands before a message.
        closers: by role, what stands behind one.
        end: what stands behind the last answer of a conversation; not stripped.
        end_text: the same as text.
        opened: what the generation prompt writes behind the assistant's header.
        opened_text: the same as text.
        split: parts of the template that look like special tokens and are several tokens here.
        special: the tokenizer's special and added tokens.
        written: all that it writes for a short conversation, whose contents are :data:`CONTENTS`.
    """

    headers: Mapping[str, Ids] = field(default_factory=dict)
    closers: Mapping[str, Ids] = field(default_factory=dict)
    end: Ids = ()
    end_text: str = ""
    opened: Ids = ()
    opened_text: str = ""
    split: tuple[str, ...] = ()
    special: frozenset[int] = frozenset()
    written: str = ""


@dataclass(frozen=True)
class Message:
    """A message in a row of ids.

    Attributes:
        role: ``user``, ``assistant`` or ``system``.
        start, stop: its content, without header and closer.
        end: where the next header begins, or the row ends.
        header: where its own header begins.
    """

    role: str
    start: int
    stop: int
    end: int
    header: int = 0


@measurement(Cost.STATIC)
def chat_template(pipeline: Pipeline) -> ChatTemplate:
    """Render a conversation, and tell headers and closers from each other.

    A template that refuses such a conversation tells nothing: it has no headers.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return ChatTemplate()
    with preserved(pipeline), quiet(pipeline):
        try:
            return _read(tokenizer)
        except Exception:  # jinja's, or whatever a template raises by raise_exception
            return ChatTemplate()


def tools_of(row: Mapping[str, Any]) -> list[Any] | None:
    """Return a row's tools as a chat template takes them; they are often stored as JSON."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return None
    return tools if isinstance(tools, list) and tools else None


def _read(tokenizer: Any) -> ChatTemplate:
    import re

    asked = [{"role": USER, "content": CONTENTS["u"]}]
    talk = [
        *asked,
        {"role": ASSISTANT, "content": CONTENTS["a"]},
        {"role": USER, "content": CONTENTS["v"]},
        {"role": ASSISTANT, "content": CONTENTS["b"]},
    ]

    def rendered(messages: Sequence[Mapping[str, str]], **how: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **how))

    def between(text: str, before: str, after: str | None) -> str:
        rest = text.split(CONTENTS[before], 1)[1]
        return rest if after is None else rest.split(CONTENTS[after], 1)[0]

    encode = _encoder(tokenizer)
    whole = rendered(talk)
    texts = {"to_answer": between(whole, "u", "a"), "to_user": between(whole, "a", "v")}
    end_text = between(whole, "b", None)
    to_answer, to_user = encode(texts["to_answer"]), encode(texts["to_user"])
    end = encode(end_text)
    closer_u = _common(to_answer, encode(between(rendered(asked), "u", None)))
    closer_a = _common(to_user, end)
    blank = _blank(tokenizer)
    header_a, header_u = (
        _stripped(gap[len(closer) :], blank) or _stripped(gap, blank)
        for gap, closer in ((to_answer, closer_u), (to_user, closer_a))
    )
    headers = {ASSISTANT: header_a, USER: header_u}
    first = _system(tokenizer, encode, blank, rendered)
    if first and first not in (header_u, header_a):
        headers[SYSTEM] = first
    prompt_text = between(rendered(asked, add_generation_prompt=True), "u", None)
    # Jinja writes the same up to the answer; what follows is opened for every answer.
    opened_text = (
        prompt_text[len(texts["to_answer"]) :].strip()
        if prompt_text.startswith(texts["to_answer"])
        else ""
    )
    marks = dict.fromkeys(re.findall(MARKS, whole))
    return ChatTemplate(
        {role: ids for role, ids in headers.items() if ids},
        {USER: _stripped(closer_u, blank), ASSISTANT: _stripped(closer_a, blank)},
        end,
        end_text,
        encode(opened_text) if opened_text else (),
        opened_text,
        tuple(one for one in marks if len(encode(one)) > 1),
        frozenset({*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}),
        whole,
    )


def _system(
    tokenizer: Any,
    encode: Callable[[str], Ids],
    blank: Callable[[int], bool],
    rendered: Callable[..., str],
) -> Ids:
    """Return what stands before a system message; empty where there is no such role."""
    messages = [
        {"role": SYSTEM, "content": CONTENTS["s"]},
        {"role": USER, "content": CONTENTS["u"]},
    ]
    try:
        text = rendered(messages)
    except Exception:  # templates without that role refuse it
        return ()
    if CONTENTS["s"] not in text:
        return ()
    ids = encode(text.split(CONTENTS["s"], 1)[0])
    bos = getattr(tokenizer, "bos_token_id", None)
    return _stripped(ids[1:] if ids[:1] == (bos,) else ids, blank)


def _encoder(tokenizer: Any) -> Callable[[str], Ids]:
    def encode(text: str) -> Ids:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    return encode


def _blank(tokenizer: Any) -> Callable[[int], bool]:
    return lambda token: not tokenizer.decode([token]).strip()


def _common(one: Ids, other: Ids) -> Ids:
    size = 0
    while size < min(len(one), len(other)) and one[size] == other[size]:
        size += 1
    return one[:size]


def _stripped(ids: Ids, blank: Callable[[int], bool]) -> Ids:
    kept = [k for k, token in enumerate(ids) if not blank(token)]
    return ids[kept[0] : kept[-1] + 1] if kept else ()


def messages_in(ids: Sequence[int], template: ChatTemplate, tokenizer: Any) -> list[Message]:
    """Return the messages that the template's headers divide a row into."""
    marks = []
    at = 0
    by_length = sorted(template.headers.items(), key=lambda item: -len(item[1]))
    while at < len(ids):
        for role, header in by_length:
            if tuple(ids[at : at + len(header)]) == header:
                marks.append((role, at, at + len(header)))
                at += len(header) - 1
                break
        at += 1
    blank = _blank(tokenizer)
    found = []
    for k, (role, at, begins) in enumerate(marks):
        end = marks[k + 1][1] if k + 1 < len(marks) else len(ids)
        closers = [template.closers.get(role, ())]
        if role == ASSISTANT:
            closers.insert(0, _stripped(template.end, blank))
        elif role == SYSTEM:  # it mostly ends as a user's does
            closers.append(template.closers.get(USER, ()))
        start, stop = _content(_closed(ids[begins:end], closers, template.special), closers, blank)
        found.append(Message(role, begins + start, begins + stop, end, at))
    return found


def _closed(ids: Sequence[int], closers: Sequence[Ids], special: frozenset[int]) -> Sequence[int]:
    """Return a message up to its closer: a message of an unknown role, a tool's, may follow."""
    for closer in closers:
        if not closer or closer[0] not in special:
            continue
        for at, token in enumerate(ids):
            if token == closer[0] and tuple(ids[at : at + len(closer)]) == closer:
                return ids[: at + len(closer)]
    return ids


def _content(
    ids: Sequence[int], closers: Sequence[Ids], blank: Callable[[int], bool]
) -> tuple[int, int]:
    """Return where a message's content begins and ends between its header and the next."""
    start = 0
    while start < len(ids) and blank(ids[start]):
        start += 1
    stop = _without_blanks(ids, start, len(ids), blank)
    for closer in closers:
        before = stop - len(closer)
        if closer and before >= start and tuple(ids[before:stop]) == closer:
            return start, _without_blanks(ids, start, before, blank)
    return start, stop


def _without_blanks(ids: Sequence[int], start: int, stop: int, blank: Callable[[int], bool]) -> int:
    while stop > start and blank(ids[stop - 1]):
        stop -= 1
    return stop
