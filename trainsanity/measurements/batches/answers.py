"""Which tokens are targets, by the role of their message, and where runs of targets begin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.chat_template import (
    ASSISTANT,
    USER,
    ChatTemplate,
    Message,
    messages_in,
    tools_of,
)
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.objectives.base import IGNORED
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

WORDS = re.compile(
    r"\b(assistant|response|answer|output|completion|reply|model|bot|gpt)\b\W*$", re.IGNORECASE
)
"""Words that people head an answer with, where no chat template says so."""

MASKS = re.compile(r"(assistant|completion|response|answer|loss|label|target|train)\w*_masks?$")
"""Columns that say which tokens are to be trained."""

NEAR = 4
"""Tokens before a run of targets that are looked at for the answer's header."""


@dataclass
class Role:
    """Counts of what is trained of the messages of one role.

    Attributes:
        tokens, counted: of their contents, and those of them that are targets.
        full, part, none: messages of which all, some or no token is a target.
        late: messages whose targets begin after their first token, by how many tokens.
        early: messages whose targets end before their last token, by how many tokens.
        firsts: first tokens that are left out.
        example: the first message that is a target in part, as text.
    """

    tokens: int = 0
    counted: int = 0
    full: int = 0
    part: int = 0
    none: int = 0
    late: Counter[int] = field(default_factory=Counter)
    early: Counter[int] = field(default_factory=Counter)
    firsts: set[int] = field(default_factory=set)
    example: str = ""


@dataclass(frozen=True)
class Broken:
    """Targets that arguments or a column say are none.

    Attributes:
        by: what says so.
        counted, tokens: targets among the tokens that it leaves out.
        example: the first row's left-out tokens, as text.
    """

    by: str
    counted: int
    tokens: int
    example: str


@dataclass(frozen=True)
class Headed:
    """Runs of targets beside the words that head an answer, where no template divides the rows.

    Attributes:
        runs: how many runs of targets there are behind something that is none.
        header: the tokens of the header, as text; empty if no header was found.
        offset: how many tokens behind the header all runs begin; None if they differ.
        elsewhere, rows: rows with the header in which no run begins behind it, among those with it.
    """

    runs: int = 0
    header: str = ""
    offset: int | None = None
    elsewhere: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Answers:
    """Counts of what is trained of conversations.

    Attributes:
        roles: by role; empty where no row has the template's headers.
        rows: rows with such headers, among all.
        broken: contracts that do not hold.
        asked: what was looked for as a contract.
        headed: runs of targets, where ``roles`` is empty.
        asked_again: conversations with several user's messages.
        later: those in which the first of these is no target, and a later one is.
        example: the first of those later messages, as text.
    """

    roles: Mapping[str, Role]
    rows: int
    broken: list[Broken]
    asked: list[str]
    headed: Headed
    asked_again: int = 0
    later: int = 0
    example: str = ""


@measurement(Cost.STATIC)
def answers(pipeline: Pipeline, documents: Documents, chat_template: ChatTemplate) -> Answers:
    """Divide documents into messages, and count the targets of each role.

    Raises:
        Skip: there is no tokenizer, or the labels are shifted.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        raise Skip("this pipeline has no tokenizer")
    if documents.shifted:
        raise Skip("the labels are those of the next token: collator.labels_aligned judges that")
    found = [one for one in documents.found if one.counted]
    roles: dict[str, Role] = {}
    rows = asked_again = later = 0
    example = ""
    for one in found:
        messages = messages_in(one.ids, chat_template, tokenizer)
        rows += any(message.role == ASSISTANT for message in messages)
        for k, message in enumerate(messages):
            if one.cut and k in (0, len(messages) - 1):
                continue  # it may have lost an end
            _count(roles.setdefault(message.role, Role()), one, message.start, message.stop,
                   tokenizer)  # fmt: skip
        users = [m for m in messages if m.role == USER and max(m.start, 1) < m.stop]
        asked_again += len(users) > 1
        if trained := _later(one, users):
            later += 1
            example = example or str(tokenizer.decode(one.ids[trained.start : trained.stop][:12]))
    if rows < len(found) / 2:
        roles = {}
    with preserved(pipeline), quiet(pipeline):
        contracts = _contracts(pipeline, found, chat_template)
    broken = [one for one in contracts if one.counted]
    headed = Headed() if roles else _headed(found, tokenizer)
    asked = [one.by for one in contracts]
    return Answers(roles, rows, broken, asked, headed, asked_again, later, example)


def _later(one: Document, users: Sequence[Message]) -> Message | None:
    """Return a user's later message that is a target as a whole, where the first one is none."""

    def counted(message: Message) -> list[bool]:
        return [one.labels[t] != IGNORED for t in range(max(message.start, 1), message.stop)]

    if len(users) < 2 or any(counted(users[0])):
        return None
    return next((message for message in users[1:] if all(counted(message))), None)


def _count(role: Role, one: Document, start: int, stop: int, tokenizer: Any) -> None:
    places = list(range(max(start, 1), stop))
    counted = [t for t in places if one.labels[t] != IGNORED]
    role.tokens += len(places)
    role.counted += len(counted)
    if not places:
        return
    if len(counted) == len(places):
        role.full += 1
    elif not counted:
        role.none += 1
    else:
        role.part += 1
        role.example = role.example or str(tokenizer.decode([one.ids[t] for t in counted][:12]))
    if counted:
        role.late[counted[0] - places[0]] += 1
        role.early[places[-1] - counted[-1]] += 1
        if counted[0] > places[0]:
            role.firsts.add(one.ids[places[0]])


def _contracts(
    pipeline: Pipeline, found: Sequence[Document], template: ChatTemplate
) -> list[Broken]:
    """Compare targets with what the arguments and the dataset's masks say."""
    tokenizer = pipeline.tokenizer
    said: dict[str, list[tuple[Document, list[int]]]] = {}
    assistant_only = bool(getattr(pipeline.args, "assistant_only_loss", False))
    completion_only = getattr(
        pipeline.trainer,
        "completion_only_loss",
        getattr(pipeline.args, "completion_only_loss", False),
    )
    for one in found:
        for name, mask in one.raw.items():
            if not MASKS.search(name) or (name == "completion_mask" and not completion_only):
                continue
            if hasattr(mask, "__len__") and len(mask) == len(one.ids):
                places = [t for t, keep in enumerate(mask) if not keep]
                said.setdefault(f"the column {name!r}", []).append((one, places))
        if assistant_only:
            places = [
                t
                for message in messages_in(one.ids, template, tokenizer)
                if message.role != ASSISTANT
                for t in range(message.start, message.stop)
            ]
            said.setdefault("assistant_only_loss=True", []).append((one, places))
        if completion_only and "prompt" in one.raw:
            size = prompt_size(tokenizer, one)
            said.setdefault("completion_only_loss=True", []).append((one, list(range(size - 1))))
    broken = []
    for by, rows in said.items():
        counted = [(one, [t for t in places if one.labels[t] != IGNORED]) for one, places in rows]
        example = next((tokenizer.decode([one.ids[t] for t in some][:12])
                        for one, some in counted if some), "")  # fmt: skip
        broken.append(
            Broken(
                by,
                sum(len(some) for _, some in counted),
                sum(len(places) for _, places in rows),
                str(example),
            )
        )
    return broken


def prompt_size(tokenizer: Any, one: Document) -> int:
    """Return how many of a row's first tokens are its prompt's."""
    prompt = one.raw["prompt"]
    try:
        if isinstance(prompt, str):
            asked = tokenizer(prompt)["input_ids"]
        else:
            text = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=False, tools=tools_of(one.raw)
            )
            asked = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception:  # whatever a template raises: then nothing is known
        return 0
    size = 0
    while size < min(len(asked), len(one.ids)) and asked[size] == one.ids[size]:
        size += 1
    return size


def runs(labels: Sequence[int]) -> list[tuple[int, int]]:
    """Return where runs of counted labels begin and end."""
    found, start = [], None
    for place, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = place
        elif label == IGNORED and start is not None:
            found.append((start, place))
            start = None
    return found


def _headed(found: Sequence[Document], tokenizer: Any) -> Headed:
    """Look for words that head an answer before the runs of targets."""
    texts: dict[int, str] = {}

    def text(ids: Sequence[int]) -> str:
        for token in ids:
            if token not in texts:
                texts[token] = str(tokenizer.decode([token]))
        return " ".join(texts[token].strip() for token in ids if texts[token].strip())

    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    special -= {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}

    def heads(ids: Sequence[int], place: int) -> str:
        """The header that ends before a place; empty if none does."""
        if place and ids[place - 1] in special:
            return text(ids[place - 1 : place])
        hit = WORDS.search(text(ids[max(0, place - NEAR) : place]))
        return hit.group(1).lower() if hit else ""

    starts = [
        (one, [start for start, _ in runs(one.labels)]) for one in found if not _all_trained(one)
    ]
    # A run from the first token on has nothing before it.
    places = [(one.ids, start) for one, some in starts for start in some if start > 1]
    if len(places) < 2 * 8:
        return Headed(len(places))
    for offset in range(NEAR):
        near = Counter(heads(ids, start - offset) for ids, start in places if start > offset)
        header, count = near.most_common(1)[0] if near else ("", 0)
        if header and count >= 0.95 * len(places):
            # A field of the header varies among few; the first words of answers among many.
            if offset and any(
                len({ids[start - back] for ids, start in places}) < max(8, len(places) / 8)
                for back in (1, offset)
            ):
                return Headed(len(places))
            return Headed(len(places), header, offset, 0, len(starts))
    direct = Counter(heads(ids, start) for ids, start in places)
    direct.pop("", None)
    if not direct:
        return Headed(len(places))
    header, count = direct.most_common(1)[0]
    if count < max(4, 0.05 * len(places)):
        return Headed(len(places))
    with_header, elsewhere = _elsewhere(starts, header, heads)
    return Headed(len(places), header, None, elsewhere, with_header)


def _all_trained(one: Document) -> bool:
    return len(one.counted) >= len(one.ids) - 1


def _elsewhere(
    starts: Sequence[tuple[Document, list[int]]],
    header: str,
    heads: Callable[[Sequence[int], int], str],
) -> tuple[int, int]:
    """Return rows that have the header, and those of them where no run begins behind it."""
    having = elsewhere = 0
    for one, some in starts:
        if any(heads(one.ids, start) == header for start in some):
            having += 1
        elif some and any(heads(one.ids, t) == header for t in range(1, len(one.ids))):
            having += 1
            elsewhere += 1
    return having, elsewhere
