"""TS309 collator.repeatable."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.registry import check
from trainsanity.fields import plain_values
from trainsanity.isolation.random_states import random_states
from trainsanity.measurements.batches.batch import Batch
from trainsanity.measurements.batches.collating import Collating, Made
from trainsanity.measurements.batches.strategies import Case
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("TS309", "collator.repeatable", needs=("data_collator",), rules_out="stateful collator")
def repeatable(pipeline: Pipeline, batch: Batch) -> Iterator[Measured | Finding]:
    """The collator returns the same batch for the same rows.

    What it checks: a batch made again from the same rows and the same random states, at once and
    after another batch.

    Why it matters: a collator that counts its calls, keeps what it saw or draws random numbers
    that no seed reaches makes runs that nobody can repeat, and after a resume or with several
    workers other batches than without.

    How it is measured: exact, on pieces of the training batch's rows, shrunk to the smallest
    failure.  Before each call the states of Python's, NumPy's and torch's global random
    generators, and of generators that are attributes of the collator, or that its code reads as
    globals or from the function around it, are put back: a collator that masks at random is
    repeatable if it draws from these.

    How to fix: no state in the collator; random numbers from torch's global generator, or from one
    that the collator keeps as an attribute.

    Known false alarms: a curriculum that depends on the number of calls.  Name the check in
    expected_failures with that reason.

    References: the ``seed`` of ``transformers.DataCollatorForLanguageModeling``.
    """
    collating = Collating(pipeline, batch, packing=True, tokens=False)
    other = Case(batch.micro_batches[-1].sources)

    def broken(case: Case) -> str | None:
        put_back = random_states(collating.collator)
        before = collating.made(case)
        for when, between in (("at once", ()), ("after another batch", (other,))):
            for one in between:
                put_back()
                collating.made(one)
            put_back()
            differing = _differing(before, collating.made(case))
            if differing:
                return f"made again {when}, {', '.join(differing)} came out differently"
        return None

    objection = collating.search(broken)
    if objection:
        yield Finding(
            f"the collator does not repeat itself: {objection}",
            cause="it counts its calls, keeps what it saw, or draws from a source without a seed",
            fix="keep no state; draw from torch's global generator",
        )
    yield Measured(
        f"pieces of {len(batch.sources)} rows, collated again at once and after another batch: "
        f"{int(bool(objection))} differences found{collating.tried()}",
        int(bool(objection)),
        0,
    )


def _differing(one: Made, other: Made) -> list[str]:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return [] if _plain(one) == _plain(other) else ["the rows"]
    keys = sorted({*one, *other})
    return [key for key in keys if _plain(one.get(key)) != _plain(other.get(key))]


def _plain(value: Any) -> Any:
    """Return tensors as lists, also inside rows that are handed on."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and math.isnan(value):
        return "nan"  # which is not equal to itself
    plain = plain_values(value)
    return plain if plain is value else _plain(plain)
