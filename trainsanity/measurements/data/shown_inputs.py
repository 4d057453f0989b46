"""Columns of instructions, their inputs and outputs, beside the rows that were made of them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.documents import Documents
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

FORMS = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("question", "context", "answer"),
)
"""Columns of Alpaca's, Dolly's and reading comprehension's form: what is asked, about what, and
the answer."""

_SPACE = re.compile(r"\s+")


@dataclass
class ShownInputs:
    """Rows of one of these forms.

    Attributes:
        form: the columns.
        rows: rows that have all three, none empty, and hold the question and the answer.
        without: numbers of those that do not hold the second.
        example: the second of the first of those.
    """

    form: tuple[str, str, str] = FORMS[0]
    rows: int = 0
    without: list[int] = field(default_factory=list)
    example: str = ""


@measurement(Cost.STATIC)
def shown_inputs(pipeline: Pipeline, documents: Documents) -> ShownInputs:
    """Look for the texts of such columns in the rows that still have them.

    Raises:
        Skip: there is no tokenizer, or no row has such columns.
    """
    tokenizer = pipeline.tokenizer
    if tokenizer is None:
        raise Skip("the pipeline has no tokenizer")
    with preserved(pipeline), quiet(pipeline):
        for form in FORMS:
            found = ShownInputs(form)
            # What several rows have is in place of nothing: "N/A", "<noinput>".
            times = Counter(str(one.raw.get(form[1])) for one in documents.found)
            for one in documents.found:
                texts = [one.raw.get(name) for name in form]
                if one.cut or not all(isinstance(text, str) and text.strip() for text in texts):
                    continue
                if times[str(texts[1])] > 1:
                    continue
                row = plain(tokenizer, one.ids)
                held = [as_tokenized(tokenizer, str(text)) in row for text in texts]
                if not held[0] or not held[2]:
                    continue
                found.rows += 1
                if not held[1]:
                    found.without.append(one.row)
                    found.example = found.example or str(texts[1])
            if found.rows:
                return found
    raise Skip("no row has columns of an instruction, its input and its output, and holds them")


def plain(tokenizer: Any, ids: list[int]) -> str:
    """Return ids as text, without blanks and special tokens."""
    return _SPACE.sub("", str(tokenizer.decode(ids, skip_special_tokens=True)))


def as_tokenized(tokenizer: Any, text: str) -> str:
    """Return a text as it looks after it was tokenized."""
    return plain(tokenizer, list(tokenizer(text.strip(), add_special_tokens=False)["input_ids"]))
