"""The user's collator, asked about the training batch and about rows of our own choice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .alignment import Placement, packed, placements
from .errors import first_line
from .measurements.batch import Batch, attended, quiet
from .measurements.state import preserved, restored
from .strategies import Case, Rows, cases, cut, per_token, smallest
from .tasks import CAUSAL_LM, IGNORED
from .types import Skip

if TYPE_CHECKING:
    from .pipeline import Pipeline

Made = Mapping[str, Any]
Wrong = Callable[[Rows, Made], str | None]
"""Objects to what became of the rows, in words that follow "in the training batch, "."""

SOURCES = 16
"""Rows of the training batch that pieces are cut from."""

MULTIPLES = (None, 8)
"""Settings of ``pad_to_multiple_of`` that are tried beside the user's own: none, and the usual."""


class Collating:
    """Asks one collator on behalf of one check.

    Args:
        pipeline: whose collator.
        batch: what it made of the first optimizer step's rows.
        packing: whether the check has something to say of rows that are packed into one.

    Raises:
        Skip: they are, and it has not.
    """

    def __init__(self, pipeline: Pipeline, batch: Batch, *, packing: bool = False) -> None:
        self.pipeline, self.batch = pipeline, batch
        self.collator = pipeline.data_collator
        self.untried = ""
        """Why rows of our own choice told nothing; empty if they did."""
        self.elsewhere = ""
        """What goes wrong with settings that the user does not use."""
        for micro in batch:
            if not packing and packed(micro.rows, micro.inputs):
                rows, into = len(micro.rows), len(micro.inputs["input_ids"])
                raise Skip(f"the collator packs {rows} rows into {into}: there is no padding")

    def objection(self, wrong: Wrong) -> str | None:
        """What is wrong in the training batch, and the smallest rows that show it."""

        def broken(case: Case) -> str | None:
            made = self.made(case)
            return None if packed(case.rows, made) else wrong(case.rows, made)

        trained = next(filter(None, (wrong(m.rows, m.inputs) for m in self.batch)), None)
        drawn = self.search(broken)
        said = [f"in the training batch, {trained}"] if trained else []
        return "; ".join([*said, *([drawn] if drawn else [])]) or None

    def search(self, broken: Callable[[Case], str | None]) -> str | None:
        """The smallest case that ``broken`` objects to.

        What goes wrong with other settings than the user's own only is kept for :meth:`tried`, and
        what the collator refuses is passed over.
        """
        rows = self._sources()
        if not rows:
            self.untried = "the rows have special tokens only"
            return None
        settings = self._settings()
        own = {name: values[0] for name, values in settings.items()}
        with preserved(self.pipeline), quiet(self.pipeline):
            found = self._smallest(rows, settings, broken)
            if found is not None and found[0].settings != own:
                self.elsewhere = f"{found[0]}: {found[1]}"
                found = self._smallest(rows, {name: [value] for name, value in own.items()}, broken)
        return None if found is None else f"smallest case ({found[0]}): {found[1]}"

    def _smallest(
        self,
        rows: Rows,
        settings: Mapping[str, Sequence[Any]],
        broken: Callable[[Case], str | None],
    ) -> tuple[Case, str] | None:
        judged, refused = 0, ""

        def objection(case: Case) -> str | None:
            nonlocal judged, refused
            try:
                with self._set(case.settings):
                    said = broken(case)
            # A collator that raises is no silent error; and it may ask more of rows than we know.
            except Exception as error:
                refused = f"the collator raised {type(error).__name__}: {first_line(error)}"
                return None
            judged += 1
            return said

        strategy = cases(
            rows,
            settings,
            end=getattr(self.pipeline.tokenizer, "eos_token_id", None),
            ragged=any(len(set(lengths(micro.rows))) > 1 for micro in self.batch),
            whole=self._needs_whole_rows(rows),
            max_length=max(lengths(rows)),
        )
        found = smallest(strategy, objection)
        self.untried = "" if judged else refused
        return found

    def made(self, case: Case) -> Made:
        """The collator's batch of a case; the case keeps its rows."""
        made: Made = self.collator(copy.deepcopy(case.rows))
        return made

    def tried(self) -> str:
        """For the end of a sentence: what was not looked at, and what went wrong out of use."""
        if self.untried:
            return f" (the training batch alone: {self.untried})"
        return (
            f"; not with settings that are not in use: {self.elsewhere}" if self.elsewhere else ""
        )

    def placed(self, rows: Sequence[Mapping[str, Any]], made: Made) -> list[Placement | None]:
        """Where each row lies; a masked language model's labels tell what was masked."""
        found = placements(rows, made)
        labels = made.get("labels")
        if all(found) or self.pipeline.task.name == CAUSAL_LM or labels is None:
            return found
        ids = made["input_ids"]
        if getattr(labels, "shape", None) != ids.shape:
            return found
        unmasked = ids.clone() if hasattr(ids, "clone") else ids.copy()
        unmasked[labels != IGNORED] = labels[labels != IGNORED]
        return placements(rows, {"input_ids": unmasked})

    @contextmanager
    def _set(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """The collator with these settings, and everything as it was afterwards."""
        holders = {name: _holder(self.collator, name) for name in settings}
        before = {name: getattr(holder, name) for name, holder in holders.items()}
        # Not all of the tokenizer each time: its vocabulary would be copied along.
        with restored([self.collator]):
            try:
                for name, value in settings.items():
                    setattr(holders[name], name, value)
                yield
            finally:
                for name, value in before.items():
                    setattr(holders[name], name, value)

    def _settings(self) -> dict[str, list[Any]]:
        """Both sides and a few multiples, where the collator has such settings; its own first."""
        found = {}
        for name, others in (
            ("padding_side", ("right", "left")),
            ("pad_to_multiple_of", MULTIPLES),
        ):
            holder = _holder(self.collator, name)
            if hasattr(holder, name) and _can_be_set(holder, name):
                found[name] = list(dict.fromkeys((getattr(holder, name), *others)))
        return found

    def _sources(self) -> Rows:
        """A few rows of the batch without special tokens, but for an EOS at their end."""
        special = set(getattr(self.pipeline.tokenizer, "all_special_ids", ()) or ())
        end = getattr(self.pipeline.tokenizer, "eos_token_id", None)
        rows = [listed(row) for micro in self.batch for row in micro.rows]
        rows.sort(key=lambda row: -len(row["input_ids"]))
        columns = per_token(rows)
        kept = []
        for row in rows[:: max(1, len(rows) // SOURCES)]:
            ids = row["input_ids"][: attended(row)[0] + 1]
            places = [k for k, token in enumerate(ids) if token not in special]
            if places and ids[-1] == end:
                places.append(len(ids) - 1)
            if places:
                kept.append(cut(row, columns, places))
        return kept

    def _needs_whole_rows(self, rows: Rows) -> bool:
        """Whether a column describes the row as a whole, like the lengths of packed texts."""
        columns = {*per_token(rows), self.pipeline.label_column(rows[0])}
        return any(isinstance(row[key], list) for row in rows for key in row if key not in columns)


def lengths(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Tokens of each row, its padding included."""
    return [len(row["input_ids"]) for row in rows]


def listed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors and arrays as lists, which can be cut and shown."""
    return {k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}


def _holder(collator: Any, name: str) -> Any:
    """Whose setting it is: the padding side belongs to the tokenizer that pads."""
    return getattr(collator, "tokenizer", None) if name == "padding_side" else collator


def _can_be_set(holder: Any, name: str) -> bool:
    try:
        setattr(holder, name, getattr(holder, name))
    except AttributeError:  # a frozen dataclass, or a property
        return False
    return True
