"""TS114 tokenizer.template_breaks_lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.chat_template import CONTENTS, ChatTemplate
from trainsanity.types import Finding, Measured, Skip

ESCAPED = re.compile(rf"\\[nr](?![a-z])|\\[nr](?={'|'.join(CONTENTS.values())})")
r"""A line break as two characters.  With a letter behind it it may be LaTeX (``\neq``)."""


@check("TS114", "tokenizer.template_breaks_lines", needs=("tokenizer",),
       rules_out="line breaks of the template")  # fmt: skip
def template_breaks_lines(chat_template: ChatTemplate) -> Iterator[Measured | Finding]:
    r"""The chat template writes line breaks, and not a backslash with an n.

    What it checks: what the tokenizer's chat template writes around the messages of a short
    conversation: whether it holds ``\n`` as two characters.

    Why it matters: a template that went through a shell, single quotes of YAML or JSON that was
    escaped twice has its line breaks as text. The model learns headers that no checkpoint has seen;
    other programs that render with the published template then give it a prompt that it does not
    know.

    How it is measured: exact, on the rendered text of two questions with their answers, contents
    aside. A backslash with a letter behind the n is a word of LaTeX.

    How to fix: read the template from a file, or put it in double quotes.

    Bad::

        chat_template: '{{ "<|im_start|>" + m["role"] + "\\n" }}'   # YAML, single quotes

    Good::

        chat_template: "{{ '<|im_start|>' + m['role'] + '\\n' }}"   # YAML, double quotes

    Known false alarms: none known.

    References: oobabooga/textgen#2762.
    """
    text = chat_template.written
    if not text:
        raise Skip("there is no chat template, or it refuses a plain conversation")
    found = list(ESCAPED.finditer(text))
    breaks = text.count("\n")
    if found:
        at = found[0].start()
        yield Finding(
            f"the chat template writes a backslash and a letter {len(found)} times where a line "
            f"break is meant: {_around(text, at)!r}",
            observed=len(found),
            expected=0,
            where="tokenizer.chat_template",
            cause="it was escaped twice: single quotes in YAML, a shell, or JSON in JSON",
            fix="read the template from a file, or put it in double quotes",
        )
    yield Measured(
        f"around four messages the chat template writes {breaks} line breaks, and {len(found)} "
        "times a backslash with an n or r",
        len(found),
        0,
    )


def _around(text: str, at: int) -> str:
    """Return what stands around a place, without the words that we put into the messages."""
    before, after = (
        re.sub("|".join(CONTENTS.values()), "…", part) for part in (text[:at], text[at:])
    )
    return before[-20:] + after[:12]
