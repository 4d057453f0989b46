"""The user's collator on the training batch, and on pieces of its rows."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session, objective_of
from trainsanity.errors import first_line
from trainsanity.fields import IDS, flat_batch, sequences_of, several_a_row, with_targets
from trainsanity.isolation.random_states import reseed
from trainsanity.isolation.snapshot import preserved, restored
from trainsanity.maths.alignment import Placement, packed, placements, told_apart, turned, unpacked
from trainsanity.measurements.batches.batch import Batch, MicroBatch, quiet
from trainsanity.measurements.batches.drawn import Drawn, holder_of, listed
from trainsanity.measurements.batches.strategies import Case, Rows, smallest
from trainsanity.measurements.batches.whose_loss import own_loss
from trainsanity.objectives.base import CAUSAL_LM, IGNORED
from trainsanity.types import Skip

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from trainsanity.pipeline import Pipeline

Made = Mapping[str, Any]
Wrong = Callable[[Rows, Made], str | None]
"""Returns what is wrong with a batch, in words that follow "in the training batch, "."""
Broken = Callable[[Case], str | None]
"""Returns what is wrong with what the collator makes of a case."""


class Collating:
    """Collates rows on behalf of one check.

    Args:
        pipeline: whose collator.
        batch: what it made of the first optimizer step's rows.
        packing: whether the check judges rows that are packed into one, too, each alone.
        tokens: whether the check compares token ids; one that does not is asked of any rows.

    Raises:
        Skip: they are packed, and it does not; or they hold no token ids, and it compares them.
    """

    def __init__(
        self, pipeline: Pipeline, batch: Batch, *, packing: bool = False, tokens: bool = True
    ) -> None:
        self.pipeline, self.batch = pipeline, batch
        self.collator = pipeline.data_collator
        self.tokens = tokens
        if tokens:
            batch.require_tokens()
        self.untried = ""
        """Why no piece of a row could be judged; empty if some could."""
        self.elsewhere = ""
        """Failures that occur only with settings that the user does not use."""
        self.sound = 0
        """Micro-batches of the first step in which :meth:`objection` found nothing wrong."""
        self.packs = tokens and any(packed(*self.seen(micro)) for micro in batch)
        """Whether rows of the first step share one: which comes first is the packing's choice."""
        for micro in batch if tokens else ():
            # A loss of the user's own may compare what the collator makes of a row with itself.
            if (times := several_a_row(micro.rows, micro.inputs)) and own_loss(pipeline):
                raise Skip(f"the collator makes {times} rows of each, for a loss of their own")
            if not packing and packed(micro.rows, micro.inputs):
                rows, into = len(micro.rows), len(micro.inputs["input_ids"])
                raise Skip(f"the collator packs {rows} rows into {into}: none stands alone")
        if tokens and not packing and self.adds_tokens():
            raise Skip("the collator adds tokens of its own to rows: their lengths are not its")
        if tokens and not packing and self.takes_parts():
            raise Skip("the collator takes a part of each row, another each time")

    def adds_tokens(self) -> bool:
        """Return whether rows of the first step that are not whole are all there, among others."""
        changed = 0
        for micro in self.batch:
            for rows, made in self.parts(micro):
                padded = made[IDS].tolist()
                if len(padded) != len(rows):
                    return False
                for row, out, where in zip(rows, padded, self.placed(rows, made), strict=True):
                    if where is None:
                        changed += 1
                        own: Counter[int] = Counter(row[IDS])
                        came_out: Counter[int] = Counter(out)
                        if not own <= came_out or own == came_out:
                            return False
        return changed > 0

    def replaces_at_random(self) -> bool:
        """Return whether rows of the first step come out with other tokens, others each time.

        Most tokens of a row have to stay, at their places; which do not is the collator's draw.
        """
        changed = False
        for micro in self.batch:
            for rows, made in self.parts(micro):
                places = _changed_places(rows, made[IDS].tolist())
                if places is None:
                    return False
                if not any(places):
                    continue
                changed = True
                others = [
                    _changed_places(rows, again[IDS].tolist()) if IDS in again else None
                    for again in self._again(micro)
                ]
                if None in others or all(one == places for one in others):
                    return False
        return changed

    def takes_parts(self) -> bool:
        """Return whether the first step has a part of each row, in order, and another each time."""
        drawn = [self._parts_of(micro, micro.inputs) for micro in self.batch]
        if any(one is None for one in drawn) or not any(
            len(part) < len(row)
            for micro, found in zip(self.batch, drawn, strict=True)
            for row, part in zip(_rows_of(micro), found or (), strict=True)
        ):
            return False
        others = [
            [self._parts_of(micro, again) for again in self._again(micro)] for micro in self.batch
        ]
        return not any(None in one for one in others) and any(
            again != before for before, one in zip(drawn, others, strict=True) for again in one
        )

    def _again(self, micro: MicroBatch) -> list[Made]:
        """Collate a micro-batch twice, with other random numbers than it was made with.

        Twice, because a generator of the collator's own moves on and is not seeded.
        """
        with preserved(self.pipeline), quiet(self.pipeline):
            reseed(0)
            return [self.collator(copy.deepcopy(micro.sources)) for _ in range(2)]

    def _parts_of(self, micro: MicroBatch, made: Made) -> list[list[int]] | None:
        """Return the tokens that came out of each row; None if one is no part of its row."""
        rows = _rows_of(micro)
        ids: Any = made.get(IDS)
        mask: Any = made.get("attention_mask")
        if getattr(ids, "ndim", 0) != 2 or len(ids) != len(rows):
            return None
        if getattr(mask, "shape", None) == ids.shape:
            shown = mask.bool() if hasattr(mask, "bool") else mask.astype(bool)
        else:
            pad = getattr(self.pipeline.tokenizer, "pad_token_id", None)
            shown = ids != (-1 if pad is None else pad)  # no id is -1
        parts = [own[seen].tolist() for own, seen in zip(ids, shown, strict=True)]
        return parts if all(map(_is_part, parts, rows)) else None

    def objection(self, wrong: Wrong) -> str | None:
        """Return what is wrong in the training batch, and the smallest rows that show it."""

        def broken(case: Case) -> str | None:
            made = self.made(case)
            if not self.tokens:
                order = turned(case.rows, made)
                return wrong(case.rows if order is None else [case.rows[k] for k in order], made)
            rows = self.sequences(case.rows, made)
            made = flat_batch(made)
            parts = unpacked(*with_targets(rows, made, IGNORED), reordered=self.packs)
            return next(filter(None, (wrong(*part) for part in parts)), None)

        problems = [
            next(filter(None, (wrong(*part) for part in self.parts(micro))), None)
            for micro in self.batch
        ]
        self.sound = sum(not problem for problem in problems)
        trained = next(filter(None, problems), None)
        drawn = self.search(broken)
        found = [f"in the training batch, {trained}"] if trained else []
        return "; ".join([*found, *([drawn] if drawn else [])]) or None

    def judged(self) -> str:
        """Return the share of the first step's micro-batches that :meth:`objection` passed."""
        return f"{self.sound} of {len(self.batch.micro_batches)} micro-batches of the first step"

    def search(self, broken: Broken) -> str | None:
        """Return the smallest case that ``broken`` objects to.

        A problem that occurs only with settings other than the user's own is kept for
        :meth:`tried`; cases that the collator refuses are passed over.
        """
        drawn: Drawn = Session.of(self.pipeline).measurements.get("drawn")
        if not drawn.sources:
            self.untried = drawn.untried
            return None
        own = drawn.own
        with preserved(self.pipeline), quiet(self.pipeline):
            found = self._first(drawn.cases, broken)
            if found is not None:
                # One objection is enough to look for the smallest case, which begins with these.
                found = self._smallest(drawn.strategy(drawn.settings), broken) or found
            if found is not None and found[0].settings != own:
                self.elsewhere = f"{found[0]}: {found[1]}"
                alone = {name: [value] for name, value in own.items()}
                found = self._smallest(drawn.strategy(alone), broken)
        return (
            None if found is None else f"the smallest batch that shows it ({found[0]}): {found[1]}"
        )

    def _first(self, cases: Iterable[Case], broken: Broken) -> tuple[Case, str] | None:
        with self._asked(broken) as objection:
            for case in cases:
                problem = objection(case)
                if problem:
                    return case, problem
        return None

    def _smallest(self, strategy: SearchStrategy[Case], broken: Broken) -> tuple[Case, str] | None:
        with self._asked(broken) as objection:
            return smallest(strategy, objection)

    @contextmanager
    def _asked(self, broken: Broken) -> Iterator[Broken]:
        """Yield ``broken`` with the case's settings; set :attr:`untried` if no case was judged."""
        judged, refused = 0, ""

        def objection(case: Case) -> str | None:
            nonlocal judged, refused
            try:
                with self._set(case.settings):
                    problem = broken(case)
            # A collator that raises is no silent error, and it may need more of rows than we know.
            except Exception as error:
                refused = f"the collator raised {type(error).__name__}: {first_line(error)}"
                return None
            judged += 1
            return problem

        yield objection
        self.untried = "" if judged else refused

    def parts(self, micro: MicroBatch) -> list[tuple[Rows, Made]]:
        """Return a micro-batch's sequences and what was made of them, packed ones each alone."""
        if not self.tokens:
            return [self.seen(micro)]
        return unpacked(*self.seen(micro), reordered=self.packs)

    def seen(self, micro: MicroBatch) -> tuple[Rows, Made]:
        """Return a micro-batch's sequences and what was made of them, with their labels."""
        if not self.tokens:
            return micro.sources, micro.inputs
        return with_targets([*map(listed, micro.rows)], micro.inputs, IGNORED)

    def sequences(self, rows: Rows, made: Made) -> Rows:
        """Return the sequences of these rows that lie in the batch that was made of them.

        Raises:
            ValueError: they hold no token ids.
        """
        found = sequences_of(rows, made, self.collator)
        if found is None:
            raise ValueError("the rows hold no token ids that the batch could be compared with")
        order = turned(found, flat_batch(made), max(1, len(found) // max(1, len(rows))))
        return [*map(listed, found if order is None else [found[k] for k in order])]

    def made(self, case: Case) -> Made:
        """Return the collator's batch of a case; the case keeps its rows."""
        made: Made = self.collator(copy.deepcopy(case.rows))
        return made

    def tried(self) -> str:
        """Return a suffix listing untested settings and failures that occur only there."""
        if self.untried:
            return f" (the training batch alone: {self.untried})"
        return (
            f"; not with settings that are not in use: {self.elsewhere}" if self.elsewhere else ""
        )

    def placed(self, rows: Sequence[Mapping[str, Any]], made: Made) -> list[Placement | None]:
        """Return where each row lies; masked and replaced tokens are read from the labels."""
        found = placements(rows, made)
        labels = made.get("labels")
        if all(found) or objective_of(self.pipeline).name == CAUSAL_LM or labels is None:
            return found
        ids = made["input_ids"]
        if getattr(labels, "shape", None) != ids.shape:
            return found
        told = {*map(int, labels.flatten().tolist())} - {IGNORED}
        if told and told <= {0, 1}:
            # One label for each token, whether it was replaced, as ELECTRA is trained.
            return told_apart(rows, ids.tolist(), labels.tolist())
        unmasked = ids.clone() if hasattr(ids, "clone") else ids.copy()
        unmasked[labels != IGNORED] = labels[labels != IGNORED]
        return placements(rows, {"input_ids": unmasked})

    @contextmanager
    def _set(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Give the collator these settings, and put everything back afterwards."""
        holders = {name: holder_of(self.collator, name) for name in settings}
        before = {name: getattr(holder, name) for name, holder in holders.items()}
        # Not the whole tokenizer each time: its vocabulary would be copied along.
        with restored([self.collator]):
            try:
                for name, value in settings.items():
                    setattr(holders[name], name, value)
                yield
            finally:
                for name, value in before.items():
                    setattr(holders[name], name, value)


def _rows_of(micro: MicroBatch) -> list[list[int]]:
    return [list(listed(row).get(IDS, ())) for row in micro.rows]


def _is_part(part: list[int], row: list[int]) -> bool:
    """Return whether some of a row's tokens are there, in their order, and no others."""
    left = iter(row)
    return bool(part) and all(token in left for token in part)


def _changed_places(rows: Rows, padded: list[list[int]]) -> list[set[int]] | None:
    """Return by row where it came out with other tokens; None where it is not the row any more."""
    if len(rows) != len(padded):
        return None
    found = []
    for row, out in zip(rows, padded, strict=True):
        own = list(row[IDS])
        ways = [
            {k for k, (a, b) in enumerate(zip(own, out[start:], strict=False)) if a != b}
            for start in {0, len(out) - len(own)}
            if start >= 0
        ]
        best = min(ways, key=len, default=None)
        if best is None or 2 * len(best) > len(own):
            return None
        found.append(best)
    return found
