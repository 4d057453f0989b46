"""TS314 collator.targets_fit_messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.answers import Answers, Headed, Role
from trainsanity.measurements.batches.chat_template import ASSISTANT, USER
from trainsanity.types import Finding, Measured, Severity

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FEW = 0.05
"""Share of messages that may be trained otherwise than the rest before it is said."""

MANY = 0.5
"""Share of rows from which labels beside the answers are no exception."""

UNMARKED = "chat template does not contain `{% generation %}`"
"""Warning of transformers when an assistant mask is asked of a template without markers."""

VARIED = 8
"""Different tokens from which what is left out is content and not a part of the header."""


@check(
    "TS314",
    "collator.targets_fit_messages",
    needs=("tokenizer",),
    follows=("collator.labels_aligned",),
    rules_out="loss mask",
)
def targets_fit_messages(pipeline: Pipeline, answers: Answers) -> Iterator[Measured | Finding]:
    """The trained tokens are whole messages of the roles that are to be trained.

    What it checks: the labels of conversations against the messages that the chat template's
    headers divide them into: no user's message is a target in part, no answer lacks its first or
    last token; and what assistant_only_loss, completion_only_loss or a column such as
    ``assistant_masks`` leaves out is no target.  Without a template the runs of targets are held
    against the word that heads the answers.

    Why it matters: labels that are found by the length of a rendered prefix lie too far right under
    a template that strips earlier reasoning, and train users' words.  A mask that nobody reads, or
    a collator that overwrites labels, trains the questions.  The loss looks as usual.

    How it is measured: exact, on 64 rows as the user's collator labels them.  Headers and closers
    are found by rendering a conversation.  Rows as long as max_length, or as the longest row, give
    no evidence at their ends.

    How to fix: take the mask from the template.

    Bad::

        start = len(tokenizer.apply_chat_template(messages[:i], add_generation_prompt=True))

    Good::

        tokenizer.apply_chat_template(messages, return_dict=True,
                                      return_assistant_tokens_mask=True)  # {% generation %}

    Known false alarms: a part of users' messages that is trained on purpose.  Where the evidence is
    a count (some messages of a role are trained and others not, the user's alone are, or stored
    labels train every token of a conversation) it is a warning: people do so by choice. It is a
    failure where transformers warned that an assistant mask was asked of a template without
    markers: then it was none.

    References: NVIDIA-NeMo/Automodel#3024, huggingface/trl#3781, tloen/alpaca-lora#306,
    OpenRLHF/OpenRLHF#781, huggingface/trl#1592, NVIDIA-NeMo/Megatron-Bridge#3359,
    NielsRogge/Transformers-Tutorials#456.
    """
    for one in answers.broken:
        yield Finding(
            f"{one.counted} of {one.tokens} tokens that {one.by} leaves out are targets, the "
            f"prompt's and the user's words among them: {one.example!r}",
            observed=one.counted,
            expected=0,
            where=one.by,
            cause="the collator ignores or overwrites the labels, or the mask's column is dropped "
            "as unused",
            fix="let the collator keep the rows' labels, or turn the mask into labels yourself",
        )
    if _asks(answers.roles):
        yield _of_questions(answers.roles)
    elif answers.later > MANY * answers.asked_again:
        yield _of_later(answers)
    else:
        yield from _of_users(answers, pipeline)
    yield from _of_answers(answers.roles)
    left = getattr(pipeline.tokenizer, "padding_side", "") == "left"
    yield from _of_headers(answers.headed, left=left)
    shares = {
        name: round(role.counted / role.tokens, 4)
        for name, role in sorted(answers.roles.items())
        if role.tokens
    }
    told = ", ".join(f"{share:.0%} of {name} tokens" for name, share in shares.items())
    contracts = ", ".join(answers.asked) or "no argument or column"
    yield Measured(
        f"targets: {told or f'{answers.headed.runs} runs in headless rows'}; left out by "
        f"{contracts}; {len(answers.broken)} of these contracts broken",
        shares or answers.headed.runs,
    )


def _asks(roles: Mapping[str, Role]) -> bool:
    """Return whether the user's messages are trained, whole ones alone, and no answer is."""
    user, assistant = roles.get(USER), roles.get(ASSISTANT)
    return (
        user is not None
        and assistant is not None
        and bool(assistant.tokens)
        and not assistant.counted
        and bool(user.full)
        and not user.part
    )


def _of_questions(roles: Mapping[str, Role]) -> Finding:
    answers = roles[ASSISTANT]
    return Finding(
        f"the targets are the user's words, {roles[USER].full} whole messages: none of "
        f"{answers.none} answers is trained",
        observed=0,
        expected=answers.tokens,
        where="role user",
        cause="a model that plays the user is trained so; otherwise the mask is the wrong way "
        "round",
        fix="nothing, if the model is to ask; otherwise make targets of the assistant's turns",
        severity=Severity.WARNING,
    )


def _of_later(answers: Answers) -> Finding:
    """What nobody means: one user's turn is left out, and the next one is trained."""
    return Finding(
        f"in {answers.later} of {answers.asked_again} conversations of several turns the user's "
        f"first message is no target and a later one is, as a whole: {answers.example!r}",
        observed=answers.later,
        expected=0,
        where="role user",
        cause="what is before the first answer is masked, and what follows it is not: a collator "
        "for one question and one answer",
        fix="mask every turn of the user: give the collator the header of the user's turns, too, "
        "or take the mask from the chat template ({% generation %})",
    )


def _of_users(answers: Answers, pipeline: Pipeline) -> Iterator[Finding]:
    """Messages that are no answers."""
    # Who asked for a mask and trains everything got an empty one.
    asked = any(UNMARKED in one.text for one in pipeline.library_warnings)
    for name, role in answers.roles.items():
        count = role.full + role.part + role.none
        if name == ASSISTANT or not count:
            continue
        if role.part > FEW * count:
            yield Finding(
                f"{role.part} of {count} {name} messages are targets in part "
                f"({role.counted} of {role.tokens} tokens, such as {role.example!r}): the spans of "
                "the assistant's labels do not lie on its answers",
                observed=role.part,
                expected=0,
                where=f"role {name}",
                cause="the spans were found by the length of a prefix that is tokenized or "
                "rendered otherwise than its part of the whole conversation",
                fix="take the mask from the chat template ({% generation %}), not from prefixes",
            )
        elif role.full and role.none > FEW * count and role.full > FEW * count:
            yield Finding(
                f"{role.full} of {count} {name} messages are targets, the others are none",
                observed=role.full,
                expected=f"0 or {count}",
                where=f"role {name}",
                cause="rows of several kinds, or a mask that some rows lack",
                fix="mask the same roles in every row",
                severity=Severity.WARNING,
            )
        elif role.full == count and name == "user" and _stored(pipeline):
            total = sum(one.counted for one in answers.roles.values())
            yield Finding(
                f"stored labels train every token of the conversations: {role.counted / total:.0%} "
                "of the targets are the user's words",
                observed=round(role.counted / total, 4),
                expected=0,
                where="role user",
                cause="labels are a copy of the ids; an assistant mask that is empty, because the "
                "template has no {% generation %} markers, ends so, too"
                if not asked
                else "an assistant mask was asked for, and the template has no {% generation %} "
                "markers (transformers warned of it): the mask is empty, and was taken for all",
                fix="use a template with {% generation %} markers, or mask the user's turns",
                severity=Severity.FAILURE if asked else Severity.WARNING,
            )


def _stored(pipeline: Pipeline) -> bool:
    """Return whether the user's own rows bring labels; trl's are made by its arguments."""
    columns = getattr(pipeline.train_dataset, "column_names", None) or ()
    return "labels" in columns and not hasattr(pipeline.args, "assistant_only_loss")


def _of_answers(roles: Mapping[str, Role]) -> Iterator[Finding]:
    role = roles.get(ASSISTANT)
    if role is None:
        return
    trained = role.full + role.part
    for side, places in (("first", role.late), ("last", role.early)):
        for missing in (1, 2, 3):
            all_alike = places[missing] >= 0.9 * trained
            if not trained or not all_alike or (side == "first" and len(role.firsts) < VARIED):
                continue
            yield Finding(
                f"the {side} {missing} token(s) of {places[missing]} of {trained} answers are no "
                "targets: their labels are off by one span's length",
                observed=places[missing],
                expected=0,
                where="role assistant",
                cause="the prompt's length was counted with a special token that the text does "
                "not have there",
                fix="count the prompt with add_special_tokens=False, or take the template's mask",
            )
    late = sum(places for by, places in role.late.items() if by)
    if FEW * trained < late < 0.9 * trained:
        yield Finding(
            f"in {late} of {trained} answers targets begin behind the first token, in the others "
            "with it",
            observed=late,
            expected=0,
            where="role assistant",
            cause="spans were found by lengths that do not fit every row",
            fix="take the mask from the chat template ({% generation %})",
            severity=Severity.WARNING,
        )


def _of_headers(headed: Headed, *, left: bool) -> Iterator[Finding]:
    if headed.offset:
        yield Finding(
            f"all {headed.runs} runs of targets begin {headed.offset} token(s) behind "
            f"{headed.header!r}: the first token of every answer is no target",
            observed=headed.offset,
            expected=0,
            where=headed.header,
            cause="the prompt was tokenized alone to count it, with an EOS that the text does not "
            "have there: off by one",
            fix="count the prompt with add_special_tokens=False",
        )
    share = headed.elsewhere / max(headed.rows, 1)
    if headed.offset is None and share > FEW:
        yield Finding(
            f"in {headed.elsewhere} of {headed.rows} documents with {headed.header!r} the run of "
            "targets begins elsewhere and not behind it: the spans are misplaced, on the prompt "
            "or inside the answer",
            observed=headed.elsewhere,
            expected=0,
            where=headed.header,
            cause="rows are padded on the left, and the prompt's length is counted from the first "
            "column: as many of its tokens are trained as the row has padding"
            if left
            else "the answers' offsets do not add up: those of packed samples have to count all "
            "tokens before them",
            fix="count from the first token that attention_mask shows, or make the labels of each "
            "row before it is padded"
            if left
            else "make the labels of each sample before samples are packed",
            severity=Severity.FAILURE if share >= MANY else Severity.WARNING,
        )
