"""Calls of tools in rows as they are trained, found by how the chat template writes one."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ASSISTANT, USER
from trainsanity.measurements.batches.documents import Documents
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

TOOL, FIRST, SECOND, VALUE, OTHER = "qztool", "qzalpha", "qzbeta", "qzone", "qztwo"
"""Words of the call that is rendered; no template has them."""

NAME = r"[\w.-]+"
MISSING = re.compile(r"None|null")


@dataclass
class Calls:
    """Calls of the rows that were drawn.

    Attributes:
        literal: what the template writes for a missing value.
        count: calls.
        tools: their tools.
        arguments: names of arguments that some call lacks.
        alike: every call names all of these.
        foreign: by tool, an argument that all its calls lack and those of another tool have.
    """

    literal: str
    count: int = 0
    tools: set[str] = field(default_factory=set)
    arguments: set[str] = field(default_factory=set)
    alike: bool = False
    foreign: dict[str, str] = field(default_factory=dict)


@measurement(Cost.STATIC)
def calls(pipeline: Pipeline, documents: Documents) -> Calls:
    """Render a call, and find what is written like it in the rows.

    Raises:
        Skip: the chat template writes no calls, or no row has one.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise Skip("the tokenizer has no chat template")
    with preserved(pipeline), quiet(pipeline):
        before, missing, literal = _written(tokenizer)
        texts = [str(tokenizer.decode(one.ids, skip_special_tokens=False))
                 for one in documents.found]  # fmt: skip
    found = Calls(literal)
    lacking: dict[str, list[set[str]]] = defaultdict(list)
    parts = [part for text in texts for part in _split(before, text)]
    for tool, part in parts:
        lacking[tool].append(set(missing.findall(part)))
    found.count, found.tools = len(parts), set(lacking)
    found.arguments = {name for sets in lacking.values() for one in sets for name in one}
    if not parts:
        raise Skip("no row has a call of a tool as the chat template writes it")
    named = {name: re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
             for name in found.arguments}  # fmt: skip
    found.alike = bool(named) and all(
        pattern.search(part) for _, part in parts for pattern in named.values()
    )
    for tool, sets in lacking.items():
        never = set.intersection(*sets)
        others = [one for other, some in lacking.items() if other != tool for one in some]
        foreign = sorted(name for name in never if any(name not in one for one in others))
        if foreign:
            found.foreign[tool] = foreign[0]
    return found


def _split(before: re.Pattern[str], text: str) -> list[tuple[str, str]]:
    """Return the calls of a row: the tool of each, and what is written up to the next."""
    hits = list(before.finditer(text))
    ends = [*(hit.start() for hit in hits[1:]), len(text)][: len(hits)]
    return [(hit[1], text[hit.end() : end]) for hit, end in zip(hits, ends, strict=True)]


def _written(tokenizer: Any) -> tuple[re.Pattern[str], re.Pattern[str], str]:
    """Return what finds a call with its tool's name, and arguments that are missing, in a text."""

    def rendered(value: str | None) -> str:
        arguments = {FIRST: VALUE, SECOND: value}
        # Templates read a call's name and arguments there or in "function".
        function = {"name": TOOL, "arguments": arguments}
        call = {"type": "function", "id": "qz0000000", **function, "function": function}
        talk = [
            {"role": USER, "content": "qzasked"},
            {"role": ASSISTANT, "content": "", "tool_calls": [call]},
        ]
        return str(tokenizer.apply_chat_template(talk, tokenize=False))

    try:
        text, whole = rendered(None), rendered(OTHER)
        tool, first = text.index(TOOL), text.index(FIRST)
        second = text.find(SECOND) + len(SECOND)
        hit = MISSING.search(text, second) if SECOND in text else None
    except Exception as error:  # jinja's, or whatever a template raises
        raise Skip("the chat template writes no calls of tools") from error
    if hit is None or hit.start() - second > 16 or OTHER not in whole or tool > first:
        raise Skip("the chat template does not write what a call lacks")
    asked = text.index("qzasked") + len("qzasked")
    opening, middle = end_of(text[asked:tool]), text[tool + len(TOOL) : first]
    before = re.compile(f"{loose(opening)}({NAME}){loose(middle)}(?={NAME})")
    missing = re.compile(f"({NAME}){loose(text[second : hit.start()])}{hit[0]}(?![\\w.-])")
    return before, missing, hit[0]


def end_of(opening: str) -> str:
    """Return what of the text before a call is looked for: behind its last tag, or its end."""
    behind = opening.rpartition(">")[2]
    return behind if behind.strip() else opening[-24:]


def loose(text: str) -> str:
    """Return a pattern for a text whose blanks may have become others by tokenizing it."""
    blank = bool(text) and not text.strip()
    if blank:
        return r"\s+"
    parts = re.split(r"\s+|(?=[<\[])|(?<=[>\]])", text)
    return r"\s*".join(re.escape(part) for part in parts)
