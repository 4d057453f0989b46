"""Measurements of the rows, moved to a share of their bound."""

from __future__ import annotations

from dataclasses import replace

from tests.checks.bounds import case
from trainsanity.checks.dataset.rows_not_truncated import MOST
from trainsanity.checks.tokenizer.teachers_share_the_ids import SOME
from trainsanity.measurements.model.beside import Beside

ROWS = 100_000


@case("dataset.rows_not_truncated")
def cut_rows(get, share):
    cut = min(round(share * MOST * ROWS), ROWS)
    found = replace(get("truncation"), rows=ROWS, capped=ROWS, probed=ROWS, cut=cut, kept=0.5)
    return {"truncation": found}


@case("tokenizer.teachers_share_the_ids")
def other_words(get, share):
    others = round(share * SOME * ROWS)
    examples = ((7, "one", "other"),)
    return {"beside": [Beside("teacher_model", "Llama", "base", ROWS, others, examples)]}
