"""How calls of tools stand in the rows, beside how the chat template writes them of objects."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import ASSISTANT, USER
from trainsanity.measurements.batches.documents import Documents
from trainsanity.measurements.data.calls import FIRST, NAME, TOOL, VALUE, end_of, loose
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ASKED, SAID = "qzasked", "qzsaid"
"""Contents of the messages that are rendered; no template has these words."""

EMPTY = r"(None|null)"
"""What Python and JSON write for no content."""

TAIL = 12
"""Characters of the assistant's header that are looked for in front of its content."""


@dataclass(frozen=True)
class WrittenCalls:
    """Calls in the rows that were drawn.

    Attributes:
        count: calls, as the template writes them of objects or of strings.
        encoded: those whose arguments are a string, encoded once more.
        example: the beginning of one of them.
        empty: messages that say nothing but ``None`` or ``null`` in front of a call.
    """

    count: int
    encoded: int
    example: str
    empty: int


@measurement(Cost.STATIC)
def written_calls(pipeline: Pipeline, documents: Documents) -> WrittenCalls:
    """Render a call with its arguments as an object and as text, and find both in the rows.

    Raises:
        Skip: the chat template writes no calls, or no row has one.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise Skip("the tokenizer has no chat template")
    with preserved(pipeline), quiet(pipeline):
        objects, strings, nothing = patterns(tokenizer)
        texts = [str(tokenizer.decode(one.ids, skip_special_tokens=False))
                 for one in documents.found]  # fmt: skip
    plain = sum(len(objects.findall(text)) for text in texts)
    twice = [hit for text in texts for hit in (strings.finditer(text) if strings else ())]
    empty = [hit for text in texts for hit in (nothing.finditer(text) if nothing else ())]
    if not plain and not twice:
        raise Skip("no row has a call of a tool as the chat template writes it")
    example = twice[0][0].strip() if twice else ""
    return WrittenCalls(plain + len(twice), len(twice), example, len(empty))


def patterns(
    tokenizer: Any,
) -> tuple[re.Pattern[str], re.Pattern[str] | None, re.Pattern[str] | None]:
    """Return what finds a call of an object, one of encoded text, and ``None`` in front of one.

    The second is None where the template takes text as it is, or refuses it; the third where it
    leaves out what is said beside a call.
    """

    def rendered(arguments: Any, content: str = "") -> str:
        function = {"name": TOOL, "arguments": arguments}
        call = {"type": "function", "id": "qz0000000", **function, "function": function}
        talk = [
            {"role": USER, "content": ASKED},
            {"role": ASSISTANT, "content": content, "tool_calls": [call]},
        ]
        return str(tokenizer.apply_chat_template(talk, tokenize=False))

    arguments = {FIRST: VALUE}
    try:
        text = rendered(arguments)
        asked, tool = text.index(ASKED) + len(ASKED), text.index(TOOL)
        middle = _middle(text)
    except Exception as error:  # jinja's, or whatever a template raises
        raise Skip("the chat template writes no calls of tools") from error
    opening = end_of(text[asked:tool])
    objects = re.compile(f"{loose(opening)}{NAME}{loose(middle)}(?={NAME})")
    try:
        other = _middle(rendered(json.dumps(arguments)))
    except Exception:  # a template that goes through the arguments refuses text
        other = middle
    twice = other != middle and '"' in other and '\\"' in other
    strings = re.compile(f"{loose(opening)}{NAME}{loose(other)}(?={NAME})") if twice else None
    said = rendered(arguments, SAID)
    if SAID not in said or said.index(SAID) > said.index(TOOL):
        return objects, strings, None
    before, _, behind = said[asked : said.index(TOOL)].partition(SAID)
    front = before[-TAIL:]
    nothing = re.compile(f"{loose(front)}\\s*{EMPTY}\\s*{loose(behind)}(?={NAME})")
    return objects, strings, nothing if front.strip() else None


def _middle(text: str) -> str:
    """Return what stands between a tool's name and that of its first argument."""
    begins = text.index(TOOL) + len(TOOL)
    return text[begins : text.index(FIRST, begins)]
