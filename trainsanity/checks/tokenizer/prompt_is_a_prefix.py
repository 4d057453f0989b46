"""TS111 tokenizer.prompt_is_a_prefix."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.batches.documents import in_training_order
from trainsanity.measurements.data.rendered import Rendered
from trainsanity.types import Finding, Measured, Severity

MANY, FEW = 0.5, 0.05
"""Shares of rows from which another beginning is a failure, and a warning."""


@check("TS111", "tokenizer.prompt_is_a_prefix", needs=("tokenizer",), rules_out="chat template")
def prompt_is_a_prefix(rendered: Rendered) -> Iterator[Measured | Finding]:
    r"""Training rows start with the generation prompt of their chat template.

    What it checks: ``apply_chat_template(prompt, add_generation_prompt=True)`` is the beginning of
    the row that is trained, for the last answer of each conversation; BOS, where the template
    writes it, is the first token of rows that begin with one of the template's headers.

    Why it matters: a generation prompt that opens ``<think>`` in front of rows without reasoning
    asks for what was never trained: every answer at inference begins inside a thought.  So does a
    BOS that is cut off the rendered text, for fear of two: the model gets it again at inference,
    and many checkpoints have never seen a text without it.

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

    References: huggingface/trl#5213, unslothai/notebooks#251.
    """
    seen = rendered
    share = len(seen.no_prefix) / max(seen.prompts, 1)
    if share > FEW:
        yield Finding(
            f"the generation prompt is no prefix of {len(seen.no_prefix)} of {seen.prompts} rows: "
            f"it goes on with {seen.asked!r}, the row with {seen.answered!r}",
            observed=len(seen.no_prefix),
            expected=0,
            where=in_training_order(seen.no_prefix[0]),
            cause="add_generation_prompt=True writes what the template does not write before an "
            "answer of the data",
            fix="make the template write the same before answers and in the generation prompt, or "
            "give the rows what it opens",
            severity=Severity.FAILURE if share >= MANY else Severity.WARNING,
        )
    absent = len(seen.without_bos) / max(seen.begun, 1)
    if absent > FEW:
        yield Finding(
            f"{len(seen.without_bos)} of {seen.begun} rows begin with the chat template's header "
            f"and without the {seen.bos!r} (BOS) that it writes before it",
            observed=len(seen.without_bos),
            expected=0,
            where=in_training_order(seen.without_bos[0]),
            cause="BOS was cut off the rendered text, and the tokenizer added none",
            fix="apply_chat_template(..., tokenize=True), or keep BOS in the text and tokenize it "
            "with add_special_tokens=False",
            severity=Severity.FAILURE if absent >= MANY else Severity.WARNING,
        )
    how = "ids alone" if seen.by_ids else "messages rendered again"
    yield Measured(
        f"the generation prompt is no prefix of {len(seen.no_prefix)} of {seen.prompts} rows "
        f"({how})" + (f"; {len(seen.without_bos)} of {seen.begun} lack BOS" if seen.bos else ""),
        len(seen.no_prefix) + len(seen.without_bos),
        0,
    )
