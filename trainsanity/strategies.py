"""Hypothesis strategies for the shapes in which padding goes wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

EXAMPLES = 25
"""Examples a check tries: rows are ragged in almost every draw, so a collator that mishandles
them is met at once; what the rest buys is a small counterexample."""

Rows = list[dict[str, Any]]


def ragged_rows(
    template: Mapping[str, Any],
    tokens: Sequence[int],
    *,
    max_length: int = 24,
    max_rows: int = 4,
) -> SearchStrategy[Rows]:
    """Rows like ``template`` with token columns of other lengths.

    Args:
        template: a real row; columns whose value is as long as its ``input_ids`` are per token,
            the others are kept as they are.
        tokens: ids to draw from.
        max_length: the longest row drawn, in tokens.
        max_rows: the most rows drawn.
    """
    from hypothesis import strategies as st

    size = len(template["input_ids"])
    per_token = [
        key
        for key, value in template.items()
        if key != "input_ids" and isinstance(value, list) and len(value) == size
    ]

    def row(ids: list[int]) -> dict[str, Any]:
        drawn = {**template, "input_ids": ids}
        for key in per_token:
            drawn[key] = [template[key][k % size] for k in range(len(ids))]
        return drawn

    ids = st.lists(st.sampled_from(list(tokens)), min_size=1, max_size=max_length)
    return st.lists(ids.map(row), min_size=1, max_size=max_rows)


def smallest(strategy: SearchStrategy[Rows], broken: Callable[[Rows], str | None]) -> str | None:
    """What ``broken`` says of the smallest example that it objects to; None if it never does.

    Derandomized and without a database: the same pipeline gives the same answer.
    """
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.reporting import with_reporter

    class Broken(Exception):
        pass

    said: list[str] = []

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=EXAMPLES,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def probe(rows: Rows) -> None:
        objection = broken(rows)
        if objection:
            said.append(objection)
            raise Broken

    with _nothing_written(), with_reporter(lambda _line: None):
        try:
            probe()
        except Broken:
            return said[-1]
    return None


@contextmanager
def _nothing_written() -> Iterator[None]:
    """Keep Hypothesis' own caches out of the user's working directory."""
    from hypothesis import configuration

    before = getattr(configuration, "__hypothesis_home_directory", None)
    with tempfile.TemporaryDirectory(prefix="trainsanity-") as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(before)
