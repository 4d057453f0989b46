"""TS111 tokenizer.prompt_is_a_prefix."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.data.rendered import Rendered
from trainsanity.types import Finding, Measured, Severity

MANY, FEW = 0.5, 0.05
"""Shares of rows from which another beginning is a failure, and a warning."""


@check("TS111", "tokenizer.prompt_is_a_prefix", needs=("tokenizer",), rules_out="chat template")
def prompt_is_a_prefix(rendered: Rendered) -> Iterator[Measured | Finding]:
    r"""Rows begin with the prompt that generation will be given.

    What it checks: ``apply_chat_template(prompt, add_generation_prompt=True)`` is the beginning of
    the row that is trained, for the last answer of each conversation.

    Why it matters: a generation prompt that opens ``<think>`` in front of rows without reasoning
    asks for what was never trained: every answer at inference begins inside a thought.

    How it is measured: exact, on 64 rows, as text without blanks.  Rows that the template does not
    fit even without a generation prompt are left out: tokenizer.rows_match_text judges those.
    Where the messages are gone, what the generation prompt writes behind the assistant's header is
    looked for behind that header in the ids.

    How to fix: render rows and prompts by one template, with the same arguments.

    Bad::

        {% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}

    Good::

        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}

    Known false alarms: inference with another template than the tokenizer's.  Where fewer than half
    of the rows begin otherwise it is a warning: some have reasoning and some do not.

    References: huggingface/trl#5213.
    """
    seen = rendered
    share = len(seen.no_prefix) / max(seen.prompts, 1)
    if share > FEW:
        yield Finding(
            f"the generation prompt is no prefix of {len(seen.no_prefix)} of {seen.prompts} rows: "
            f"it goes on with {seen.asked!r}, the row with {seen.answered!r}",
            observed=len(seen.no_prefix),
            expected=0,
            where=f"row {seen.no_prefix[0]} of those drawn",
            cause="add_generation_prompt=True writes what the template does not write before an "
            "answer of the data",
            fix="make the template write the same before answers and in the generation prompt, or "
            "give the rows what it opens",
            severity=Severity.FAILURE if share >= MANY else Severity.WARNING,
        )
    how = "ids alone" if seen.by_ids else "messages rendered again"
    yield Measured(
        f"the generation prompt is no prefix of {len(seen.no_prefix)} of {seen.prompts} rows "
        f"({how})",
        len(seen.no_prefix),
        0,
    )
