"""TS248 dataset.answers_are_their_own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.own_answers import OwnAnswers
from trainsanity.types import Finding, Measured, Severity

NEARLY = 0.9
"""Share of rows.  Chosen: where texts are corrected many answers are rightly what was asked."""

PLACEHOLDER = re.compile(r"(?<![\w}\\^$])\{\{?\s*[a-zA-Z_]\w*\s*\}?\}|%\([a-zA-Z_]\w*\)s")
"""A name that was to be replaced: of format(), of a template language, of the old formatting.
Behind a command, an index or a dollar, braces are of LaTeX or of a shell."""

HALF = 0.5
"""Share of answers that hold the same braces, from which on these are what is asked for."""

SEVERAL = 8
"""Answers that have to be one before that is said.  Chosen: a trial run may have a few rows."""


@check(
    "TS248",
    "dataset.answers_are_their_own",
    needs=("train_dataset",),
    rules_out="copied answers",
)
def answers_are_their_own(own_answers: OwnAnswers) -> Iterator[Measured | Finding]:
    """Answers are no copies of their prompts, and prompts and answers not one text for all rows.

    What it checks: the first trained answer of 64 rows, or both sides of 64 pairs, against the
    prompt before it and the user's last words, and against the answers of other rows; and the
    prompts against each other.

    Why it matters: a column that holds prompt and answer, put behind the prompt once more, trains a
    model that repeats what it is asked before it answers. One answer for all prompts, of a variable
    that a loop left behind, is all that the model says from then on. The loss falls fast in both.

    How it is measured: exact, as text without blanks and special tokens. Nine in ten answers that
    are or begin with their prompt are a failure; where some are another text than their prompt, and
    no beginning of it, a warning: of texts to be corrected many are right. One text for all of
    eight or more different prompts is a failure; one of a single token is a class, and a warning as
    in dataset.labels_vary. One prompt for eight different answers is a failure if it holds a name
    in braces that nobody filled in, and that half of the answers do not hold as well, as code, and
    templates that are asked for, do; and else a warning; where pictures or sounds stand beside the
    ids, they are what is asked about.

    How to fix: cut the prompt off the text that holds both.

    Bad::

        {"prompt": row["prompt"], "completion": row["text"]}   # text is prompt and answer

    Good::

        {"prompt": row["prompt"], "completion": row["text"].removeprefix(row["prompt"])}

    Known false alarms: a model that is to copy, or to refuse everything in the same words; code
    that is completed by writing the given beginning once more.

    References: read: trl.data_utils.extract_prompt.
    """
    found = own_answers
    again = len(found.copies) + len(found.begin)
    if again >= NEARLY * found.answers:
        begin = len(found.begin) > len(found.copies)
        yield Finding(
            f"{again} of {found.answers} answers "
            f"{'begin with the whole prompt' if begin else 'are the prompt'}: {found.example!r}",
            observed=again,
            expected=0,
            where=in_training_order((found.copies + found.begin)[0]),
            cause="the column of answers holds the prompt as well"
            if begin
            else "both columns were made of one",
            fix="cut the prompt off: text.removeprefix(prompt)"
            if begin
            else "look at the function that makes prompt and answer; nothing, if most texts are to "
            "stay as they are",
            severity=Severity.FAILURE
            if begin or again + found.cut == found.answers
            else Severity.WARNING,
        )
    if len(found.texts) == 1 and len(found.prompts) >= SEVERAL:
        text = next(iter(found.texts))
        yield Finding(
            f"{len(found.prompts)} different prompts have one answer: {text[:60]!r}",
            observed=1,
            expected="several",
            cause="the answer is that of one row: a variable that a loop left behind",
            fix="look at the function that makes the answers",
            severity=Severity.FAILURE if found.tokens > 1 else Severity.WARNING,
        )
    if len(found.prompts) == 1 and len(found.texts) >= SEVERAL and not found.beside:
        prompt = found.prompt
        blank = next(
            (one for one in PLACEHOLDER.finditer(prompt) if not _answered(one.group(), found)), None
        )
        yield Finding(
            f"{len(found.texts)} different answers have one prompt: {prompt[-60:]!r}",
            observed=1,
            expected="several",
            where=blank.group() if blank else None,
            cause="the prompt is a template that was not filled in"
            if blank
            else "what tells the rows apart was left out of the prompt, or nothing does on purpose",
            fix='write f"..." or .format(...), and look at a row with trainsanity show'
            if blank
            else "put the question into the prompt; nothing, if the model is to make things up",
            severity=Severity.FAILURE if blank else Severity.WARNING,
        )
    yield Measured(
        f"{found.answers} answers to {len(found.prompts)} prompts are {len(found.texts)} different "
        f"texts; {len(found.copies)} are their prompt, and {len(found.begin)} begin with it",
        {"copies": len(found.copies), "begin": len(found.begin), "texts": len(found.texts)},
    )


def _answered(name: str, found: OwnAnswers) -> bool:
    """Return whether answers hold a name in braces as their prompt does."""
    bare = "".join(name.split())
    return sum(bare in text for text in found.texts) >= HALF * len(found.texts)
