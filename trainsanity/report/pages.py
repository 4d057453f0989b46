"""The pages of checks: their docstrings, each with a real failure, for a terminal and as Markdown.

The failures are those of this repository's faults; ``.ci/examples.py`` writes them to
``examples.json``.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources

from trainsanity.types import STAGES, Check

_SECTION = re.compile(r"([A-Z][a-z ]+): (.*)", re.DOTALL)
_ISSUE = re.compile(r"\b([\w-]+/[\w.-]+)#(\d+)")


@cache
def examples() -> Mapping[str, Mapping[str, str]]:
    """Return by code the ``fault``, its ``title`` and ``upstream``, and the failure's ``text``."""
    text = (resources.files(__package__) / "examples.json").read_text(encoding="utf-8")
    document: dict[str, dict[str, str]] = json.loads(text)["examples"]
    return document


def page(check: Check) -> str:
    """Return the page for a terminal."""
    facts = [f"{check.code} {check.name}", *_facts(check)]
    parts = [" | ".join(facts), check.page]
    if example := examples().get(check.code):
        text = "\n".join(f"  {line}" for line in example["text"].splitlines())
        parts.append(f"What a failure looks like: {_broken(example)}\n\n{text}")
    return "\n\n".join(parts)


def reference(checks: Iterable[Check]) -> str:
    """Return one Markdown document with all the pages, by stage."""
    return "\n".join(_reference(list(checks)))


def _reference(checks: list[Check]) -> Iterator[str]:
    yield from ("# The checks of trainsanity", "")
    yield from (
        "In the order in which data flows; the first stage that fails is where to look.",
        "",
    )
    for check in checks:
        yield f"- [{check.code} `{check.name}`](#{_anchor(check)}): {_prose(check.title)}"
    for stage in STAGES:
        mine = [check for check in checks if check.stage == stage]
        if mine:
            yield from ("", f"## {stage.capitalize()}")
        for check in mine:
            yield from ("", *_markdown(check))


def _markdown(check: Check) -> Iterator[str]:
    yield from (f"### {check.code} `{check.name}`", "")
    for label, text in sections(check):
        yield from (f"*{label}:* {text}" if label else text, "")
    if example := examples().get(check.code):
        yield from (f"*What a failure looks like:* {_prose(_broken(example))}", "")
        yield from ("```text", example["text"], "```")


def sections(check: Check) -> Iterator[tuple[str, str]]:
    """Yield the parts of a check's page in Markdown, each with its label or none.

    The first says what holds, the second stage, cost and the like; then come the docstring's.
    """
    title, *paragraphs = check.page.split("\n\n")
    yield "", f"**{_prose(title)}**"
    yield "", f"{'; '.join(_facts(check))}."
    for paragraph in paragraphs:
        if paragraph.startswith("    "):  # a snippet, as it stands
            yield "", f"```python\n{textwrap.dedent(paragraph)}\n```"
            continue
        section = _SECTION.fullmatch(paragraph)
        yield (section[1], _prose(section[2])) if section else ("", _prose(paragraph))


def linked(text: str) -> str:
    """Return a sentence in Markdown, with its issues as links."""
    return _prose(text)


def _facts(check: Check) -> Iterator[str]:
    yield f"stage {check.stage}"
    yield f"cost {check.cost.name}"
    if check.judges:
        yield f"judges the {check.judges}"
    if check.requires:
        yield f"after {', '.join(check.requires)}"
    if check.rules_out:
        yield f"a pass rules out: {check.rules_out}"


def _broken(example: Mapping[str, str]) -> str:
    return f"{example['title'].rstrip('.')} ({example['upstream']})."


def _anchor(check: Check) -> str:
    """Return the anchor that GitHub makes from the heading."""
    return re.sub(r"[^\w -]", "", f"{check.code} {check.name}".lower()).replace(" ", "-")


def _prose(text: str) -> str:
    """Return a paragraph in Markdown: code as code, issues as links, signs as they are."""
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    return "".join(
        part[1:-1] if part.startswith("``") else _ISSUE.sub(_link, _escaped(part)) for part in parts
    )


def _escaped(text: str) -> str:
    return re.sub(r"[\\`*_\[\]<>|]", r"\\\g<0>", text)


def _link(found: re.Match[str]) -> str:
    return f"[{found[0]}](https://github.com/{found[1]}/issues/{found[2]})"
