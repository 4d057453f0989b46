"""Hypothesis strategies for the shapes in which padding goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from trainsanity.fields import token_content
from trainsanity.isolation.temp_folders import scratch

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

EXAMPLES = 40
"""Examples a check tries: rows are ragged in almost every draw, so a collator that mishandles
them is met at once; what the rest buys is a small counterexample."""

MAX_ROWS = 4
"""The most rows drawn: what goes wrong with one row among others does so with these."""

SHORT = 24
"""Tokens of the longest row of half the draws: three multiples of 8, and quickly read."""

Rows = list[dict[str, Any]]
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """Rows to collate, and the collator's settings meanwhile."""

    rows: Rows
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        content = token_content(self.rows[0]) if self.rows else None
        if content is None:
            return self._with_settings(f"{len(self.rows)} rows")
        lengths = [sum(len(row[name]) for name in content.columns) for row in self.rows]
        if sum(lengths) <= SHORT and content.plain:
            shown = f"input_ids {[row['input_ids'] for row in self.rows]}"
        else:
            shown = f"rows of {', '.join(map(str, lengths))} tokens"
        return self._with_settings(shown)

    def _with_settings(self, shown: str) -> str:
        return ", ".join([shown, *(f"{name}={value!r}" for name, value in self.settings.items())])


def per_token(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The columns that have a value for each token, in every one of these rows."""
    if any("input_ids" not in row for row in rows):
        return set()
    return {
        key
        for key in rows[0]
        if all(
            isinstance(row.get(key), list) and len(row[key]) == len(row["input_ids"])
            for row in rows
        )
    }


def cut(row: Mapping[str, Any], columns: Collection[str], places: Sequence[int]) -> dict[str, Any]:
    """The row with these places alone in its per-token columns."""
    return {
        key: [value[k] for k in places] if key in columns else value for key, value in row.items()
    }


def cases(
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Sequence[Any]] | None = None,
    *,
    end: int | None = None,
    markers: Collection[int] = (),
    ragged: bool = True,
    whole: bool = False,
    max_length: int = SHORT,
    most_rows: int = MAX_ROWS,
) -> SearchStrategy[Case]:
    """Pieces of the user's own rows, so that every column fits its tokens.

    Batches of one, rows of one length and a longest row that is a multiple already are drawn as
    often as ragged ones.

    Args:
        rows: what is cut; columns that are not per token stay whole.
        settings: values that the collator's settings may take, the user's own first.
        end: an id; pieces of a row that ends with it end with it, too, at times.
        markers: ids that pieces keep all of, with a token behind the last: collators look for them.
        ragged: whether rows of one batch may differ in length.
        whole: give the rows as they are, for columns that would not survive a cut.
        max_length: the longest piece, in tokens.
        most_rows: the most rows in a batch.
    """
    from hypothesis import strategies as st

    columns = per_token(rows)
    choices = dict(settings or {})
    shapes = ("ragged", "whole", "equal") if ragged else ("equal",)
    marked = (row["input_ids"] for row in rows if markers)
    anchors = max((sum(t in markers for t in ids) for ids in marked), default=0)
    # A token before the markers, one behind them, and an end.
    least = anchors + 3 if anchors else 1
    sizes = st.one_of(
        st.integers(least, max(least, min(SHORT, max_length))),
        st.integers(least, max(least, max_length)),
    )

    @st.composite
    def piece(draw: DrawFn, length: int) -> dict[str, Any]:
        row = draw(st.sampled_from(rows))
        if whole:
            return dict(row)
        ends = len(row["input_ids"]) > 1 and row["input_ids"][-1] == end
        size = len(row["input_ids"]) - ends
        start = draw(st.integers(0, size - 1))
        places = [(start + k) % size for k in range(length)]
        if anchors:
            places = around_markers(row["input_ids"][:size], markers, places)
        # Never the end alone: where PAD is EOS, nobody could tell that row from its padding.
        if ends and length > 1 and draw(st.booleans()):
            places[-1] = size
        return cut(row, columns, places)

    @st.composite
    def case(draw: DrawFn) -> Case:
        # What is drawn first is shrunk first: the user's own settings, then ragged rows.
        chosen = {name: draw(st.sampled_from(values)) for name, values in choices.items()}
        shape = draw(st.sampled_from(shapes))
        lengths = draw(st.lists(sizes, min_size=1, max_size=most_rows))
        if shape == "equal":
            lengths = [lengths[0]] * len(lengths)
        if shape == "whole":
            multiple = chosen.get("pad_to_multiple_of") or 1
            lengths[0] = -(-max(lengths) // multiple) * multiple
        return Case([draw(piece(length)) for length in lengths], chosen)

    return case()


def around_markers(
    ids: Sequence[int], markers: Collection[int], places: Sequence[int]
) -> list[int]:
    """Return as many places in their own order, all markers among them and one behind the last."""
    kept = [k for k, token in enumerate(ids) if token in markers]
    last = kept[-1] if kept else -1
    needed = [*kept, last + 1] if last + 1 < len(ids) else kept
    others = [k for k in places if k not in needed]
    chosen = [*needed, *others[: max(0, len(places) - len(needed))]]
    # A piece may be longer than the row: then the last place comes several times.
    chosen += needed[-1:] * (len(places) - len(chosen))
    return sorted(chosen)


def smallest(
    strategy: SearchStrategy[T], broken: Callable[[T], str | None]
) -> tuple[T, str] | None:
    """Return the smallest example that ``broken`` objects to, with its objection; None if none.

    Derandomized and without a database: the same pipeline gives the same answer.
    """
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Flaky
    from hypothesis.reporting import with_reporter

    class Broken(Exception):
        pass

    found: list[tuple[T, str]] = []

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
    def probe(example: T) -> None:
        objection = broken(example)
        if objection:
            found.append((example, objection))
            raise Broken

    with _nothing_written(), with_reporter(lambda _line: None):
        try:
            probe()
        # A stateful collator may not fail a second time: once is enough.  An old Hypothesis also
        # takes its own draws for flaky, and ends a search that has found nothing yet.
        except (Broken, Flaky):
            return found[-1] if found else None
    return None


@contextmanager
def _nothing_written() -> Iterator[None]:
    """Keep Hypothesis' own caches out of the user's working directory."""
    from hypothesis import configuration

    before = getattr(configuration, "__hypothesis_home_directory", None)
    with scratch() as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(before)
