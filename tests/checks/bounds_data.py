"""Measurements of the rows, moved to a share of their bound."""

from __future__ import annotations

from dataclasses import replace

from tests.checks.bounds import case
from trainsanity.checks.dataset.answers_stay_in_their_rows import MOST as SAME_WAY
from trainsanity.checks.dataset.examples_are_of_others import HALF
from trainsanity.checks.dataset.rows_not_truncated import MOST
from trainsanity.checks.tokenizer.added_tokens_stand_whole import FEW
from trainsanity.checks.tokenizer.teachers_share_the_ids import SOME
from trainsanity.measurements.batches.documents import Document, Documents
from trainsanity.measurements.data.added_tokens import AddedTokens
from trainsanity.measurements.data.shifted_rows import Shifted
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


@case("tokenizer.added_tokens_stand_whole")
def spelled_tokens(get, share):
    return {"added_tokens": AddedTokens(ROWS, {"<order>": 1}, share * FEW)}


@case("dataset.examples_are_of_others")
def rows_found_again(get, share):
    found = round(share * HALF * 1000)
    documents = []
    for k in range(1000):
        asked = [1000 + k, 21, 22, 23, 24, 25, 26, 27, 28]
        ids = [*asked, 1, *asked] if k < found else [k + 100, *asked[1:], 1, *asked]
        documents.append(Document(k, ids, [-100] * (len(ids) - 1) + ids[-1:], {}, cut=False))
    return {"documents": Documents(documents, 1000, "", None, {})}


@case("dataset.answers_stay_in_their_rows")
def answers_of_the_next_row(get, share):
    others = min(round(share * SAME_WAY * ROWS), ROWS)
    return {"shifted_rows": [Shifted("prompt", "completion", ROWS, ROWS - others, others, by=1)]}
