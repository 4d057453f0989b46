"""Measurements of the rows, moved to a share of their bound."""

from __future__ import annotations

from dataclasses import replace

from tests.checks.bounds import case
from trainsanity.checks.dataset.rows_not_truncated import MOST

ROWS = 100_000


@case("dataset.rows_not_truncated")
def cut_rows(get, share):
    cut = min(round(share * MOST * ROWS), ROWS)
    found = replace(get("truncation"), rows=ROWS, capped=ROWS, probed=ROWS, cut=cut, kept=0.5)
    return {"truncation": found}
