"""Conversations rendered again beside the rows that were made of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import (
    ASSISTANT,
    USER,
    ChatTemplate,
    messages_in,
    tools_of,
)
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

UNCHECKED = ("tool", "function", "ipython", "observation")
"""Roles whose contents templates write as JSON."""

REASONS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
"""Keys of a message under which chat templates look for what was thought before it was said."""

_SPACE = re.compile(r"\s+")
_THOUGHT = re.compile(r"^.*</[^<>\s]+>|^.*◁/think▷", re.DOTALL)


@dataclass(frozen=True)
class Missing:
    """A message whose content is not in its row.

    Attributes:
        row: the row's number among those that were drawn.
        role: whose message it is.
        content: its first words.
        thought: its reasoning alone is missing.
        trained: what is left of it is a target.
    """

    row: int
    role: str
    content: str
    thought: bool
    trained: bool


@dataclass(frozen=True)
class Rendered:
    """Results of rendering a few conversations again.

    Attributes:
        prompts: rows whose prompt could be rendered, and fits without a generation prompt.
        no_prefix: those that do not begin with the generation prompt.
        asked, answered: of the first of those: the prompt's last words, and the row's there.
        messages: messages looked for in their rows, by role.
        missing: those that are not there.
        by_ids: the rows are known as ids alone.
        tools: numbers of the rows that bring tools.
        without_tools: of those, the rows that tell of none.
        takes_tools: the template writes the tools that it is given.
        bos: the token that the template begins with; empty if with none.
        begun: rows that begin with one of the template's headers, BOS aside.
        without_bos: of those, the rows that do not begin with it.
        reasons: last answers that bring their reasoning under a key of its own.
        unread: of those whose reasoning is not in the row, by the key: one that the template does
            not read.
    """

    prompts: int = 0
    no_prefix: list[int] = field(default_factory=list)
    asked: str = ""
    answered: str = ""
    messages: Counter[str] = field(default_factory=Counter)
    missing: list[Missing] = field(default_factory=list)
    by_ids: bool = False
    tools: list[int] = field(default_factory=list)
    without_tools: list[int] = field(default_factory=list)
    takes_tools: bool = False
    bos: str = ""
    begun: int = 0
    without_bos: list[int] = field(default_factory=list)
    reasons: int = 0
    unread: dict[str, list[int]] = field(default_factory=dict)


@measurement(Cost.STATIC)
def rendered(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Rendered:
    """Render the prompts of a few rows, and look for each message's content in its row.

    Raises:
        Skip: there is no chat template, or no row is a whole conversation.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise Skip("the tokenizer has no chat template")
    kept = [one for one in documents.found if not one.cut]
    talks = [(one, talk) for one in kept if (talk := conversation(one.raw))]
    with preserved(pipeline), quiet(pipeline):
        look = _Look(tokenizer, chat_template)
        if talks:
            for one, talk in talks:
                look.prompt(one, talk)
                look.contents(one, talk)
                look.tools(one, talk)
                look.reasons(one, talk)
            found = look.found
            if found.messages and len(found.missing) == found.messages.total():
                raise Skip("the rows hold no message of their column: they are made otherwise")
            return look.begun(found, kept)
        if not chat_template.headers:
            raise Skip("no row has a conversation, and the template's headers are not known")
        return look.begun(look.opened(kept), kept)


def conversation(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a row's messages; empty if it has none with role and content."""
    for names in (("messages",), ("conversations",), ("prompt", "completion")):
        parts = [raw.get(name) for name in names]
        if all(isinstance(part, list) for part in parts):
            talk = [message for part in parts for message in part or ()]
            if all(isinstance(m, Mapping) and "role" in m and "content" in m for m in talk):
                return talk
    return []


class _Look:
    def __init__(self, tokenizer: Any, template: ChatTemplate) -> None:
        self.tokenizer, self.template, self.found = tokenizer, template, Rendered()
        self.prompts, self.no_prefix = 0, self.found.no_prefix

    def text(self, ids: Sequence[int]) -> str:
        bos = getattr(self.tokenizer, "bos_token_id", None)
        ids = list(ids)
        while bos is not None and ids[:1] == [bos]:
            ids = ids[1:]
        return _SPACE.sub("", str(self.tokenizer.decode(ids, skip_special_tokens=False)))

    def again(self, text: str) -> str:
        """A text as it looks after it was tokenized."""
        return self.text(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt(self, one: Document, talk: Sequence[Mapping[str, Any]]) -> None:
        roles = [message["role"] for message in talk]
        last = max((k for k, role in enumerate(roles) if role == ASSISTANT), default=0)
        if not last or roles[last - 1] == ASSISTANT:
            return
        how = {
            "tokenize": False,
            "tools": tools_of(one.raw),
            **(one.raw.get("chat_template_kwargs") or {}),
        }
        try:
            render = self.tokenizer.apply_chat_template
            bare = self.again(render(list(talk[:last]), add_generation_prompt=False, **how))
            asked = self.again(render(list(talk[:last]), add_generation_prompt=True, **how))
        except Exception:  # jinja's, or whatever a template raises by raise_exception
            return
        row = self.text(one.ids)
        if not row.startswith(bare):
            return
        count = self.found.prompts + 1
        shown = {}
        if not row.startswith(asked):
            if not self.found.no_prefix:
                size = len(bare)
                shown = {"asked": asked[size:], "answered": row[size : size + 40]}
            self.found.no_prefix.append(one.row)
        self.found = Rendered(**{**vars(self.found), "prompts": count, **shown})

    def contents(self, one: Document, talk: Sequence[Mapping[str, Any]]) -> None:
        row = self.text(one.ids)
        answers = [m for m in messages_in(one.ids, self.template, self.tokenizer)
                   if m.role == ASSISTANT]  # fmt: skip
        number = -1
        for message in talk:
            role = str(message["role"])
            number += role == ASSISTANT
            if role in UNCHECKED or message.get("tool_calls"):
                continue
            for content in _texts(message["content"]):
                self.found.messages[role] += 1
                if self.again(content) in row:
                    continue
                rest = _THOUGHT.sub("", content)
                thought = rest != content and bool(rest.strip()) and self.again(rest) in row
                own = answers[number] if role == ASSISTANT and number < len(answers) else None
                trained = own is None or any(own.start <= t < own.stop for t in one.counted)
                self.found.missing.append(Missing(one.row, role, content[:40], thought, trained))

    def reasons(self, one: Document, talk: Sequence[Mapping[str, Any]]) -> None:
        """Look for the reasoning of the last answer, which is not stripped as earlier ones are."""
        last = talk[-1]
        key = next((key for key in REASONS if _texts(last.get(key))), None)
        if last["role"] != ASSISTANT or key is None:
            return
        self.found = replace(self.found, reasons=self.found.reasons + 1)
        row, template = self.text(one.ids), str(self.tokenizer.chat_template)
        read = any(mark in template for mark in (f".{key}", f"'{key}'", f'"{key}"'))
        if not read and not any(self.again(text) in row for text in _texts(last[key])):
            self.found.unread.setdefault(key, []).append(one.row)

    def tools(self, one: Document, talk: Sequence[Mapping[str, Any]]) -> None:
        """Look for the tools that a row brings: by their names, and by what the template writes."""
        tools = tools_of(one.raw)
        functions = [tool.get("function") or tool for tool in tools or () if isinstance(tool, dict)]
        names = [str(named["name"]) for named in functions if named.get("name")]
        if not names:
            return
        how = {"tokenize": False, **(one.raw.get("chat_template_kwargs") or {})}
        try:
            told, bare = (
                self.again(self.tokenizer.apply_chat_template(list(talk), tools=given, **how))
                for given in (tools, None)
            )
        except Exception:  # jinja's, or whatever a template raises by raise_exception
            return
        row = self.text(one.ids)
        self.found.tools.append(one.row)
        nothing = not any(_SPACE.sub("", name) in row for name in names)
        if nothing or (told != bare and told not in row and bare in row):
            self.found.without_tools.append(one.row)
        self.found = replace(self.found, takes_tools=self.found.takes_tools or told != bare)

    def begun(self, found: Rendered, kept: Sequence[Document]) -> Rendered:
        """Look for the BOS that the template writes in rows that begin with its headers."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        asked = [{"role": USER, "content": "a"}]
        try:
            text = str(self.tokenizer.apply_chat_template(asked, tokenize=False))
        except Exception:  # jinja's, or whatever a template raises by raise_exception
            return found
        if bos is None or not text.startswith(self.tokenizer.bos_token):
            return found
        count, without = 0, []
        for one in kept:
            has = one.ids[:1] == [bos]
            ids = tuple(one.ids[1:] if has else one.ids)
            if any(h and ids[: len(h)] == h for h in self.template.headers.values()):
                count += 1
                if not has:
                    without.append(one.row)
        bos_token = str(self.tokenizer.bos_token)
        return replace(found, bos=bos_token, begun=count, without_bos=without)

    def opened(self, kept: Sequence[Document]) -> Rendered:
        """Look for what the generation prompt opens behind the last header of each row."""
        begins = _SPACE.sub("", self.template.opened_text)
        found = Rendered(by_ids=True)
        count, answered = 0, ""
        for one in kept:
            answers = [m for m in messages_in(one.ids, self.template, self.tokenizer)
                       if m.role == ASSISTANT]  # fmt: skip
            if not answers:
                continue
            count += 1
            text = self.text(one.ids[answers[-1].start : answers[-1].end])
            if not text.startswith(begins):
                found.no_prefix.append(one.row)
                answered = answered or text[:40]
        if not count:
            raise Skip("no row has the headers of the chat template")
        return Rendered(count, found.no_prefix, begins, answered, by_ids=True)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content] if content.strip() else []
    parts = content if isinstance(content, list) else []
    found = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return [text for text in found if isinstance(text, str) and text.strip()]
