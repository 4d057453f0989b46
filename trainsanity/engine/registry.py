"""The catalogue of checks: registration, codes, selection, third-party checks."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable

from trainsanity.engine.loading import load_package, load_plugins
from trainsanity.engine.store import catalogue
from trainsanity.errors import UsageError
from trainsanity.types import STAGES, Check, CheckFunction, Cost, Judges

_CODE = re.compile(r"[A-Z]{2,}\d{3,}")
_NAME = re.compile(r"[a-z_]+\.[a-z0-9_]+")
_OWN_PACKAGE = "trainsanity."

GATE = Cost.STEP
"""The most that a check costs which nobody asked for by name or by cost."""


class Registry:
    """Checks by name, in stage order."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def add(self, check: Check) -> Check:
        """Take in one check.

        Raises:
            UsageError: the code or name is malformed, taken or reserved, what it judges is
                unknown, or the cost is less than that of a measurement it asks for.
        """
        measurements = catalogue()
        if not _CODE.fullmatch(check.code):
            raise UsageError(f"check code {check.code!r}: give letters and digits, like ACME001")
        if not _NAME.fullmatch(check.name) or check.stage not in STAGES:
            raise UsageError(
                f"check name {check.name!r}: give 'stage.invariant' with one of {', '.join(STAGES)}"
            )
        if check.code.startswith("TS") and not check.fn.__module__.startswith(_OWN_PACKAGE):
            raise UsageError(f"check code {check.code}: TS is reserved, use a prefix of your own")
        for other in self._checks.values():
            if other.code == check.code or other.name == check.name:
                raise UsageError(
                    f"check {check.code} {check.name} is registered twice: "
                    f"{other.code} {other.name} has that code or name"
                )
        if check.judges not in (None, *Judges):
            raise UsageError(
                f"check {check.code} judges {check.judges!r}: give {' or '.join(Judges)}, or leave "
                "it out"
            )
        for name in check.inputs:
            if name == "pipeline":
                continue
            if name not in measurements:
                raise UsageError(
                    f"check {check.code} asks for {name!r}; there is no such measurement, "
                    f"only {', '.join(sorted(measurements))}"
                )
            if measurements[name].total_cost > check.cost:
                raise UsageError(
                    f"check {check.code} says it costs {check.cost.name}, "
                    f"but its measurement {name!r} costs {measurements[name].total_cost.name}"
                )
        self._checks[check.name] = check
        return check

    def all(self) -> list[Check]:
        """Every check, by stage and code.

        Raises:
            UsageError: a check requires one that does not exist.
        """
        for check in self._checks.values():
            for other in (*check.requires, *check.explained_by, *check.follows):
                if other not in self._checks:
                    raise UsageError(f"check {check.code} requires {other!r}, which does not exist")
        return sorted(self._checks.values(), key=lambda c: c.order)

    def get(self, name: str) -> Check:
        """The check of that name or code.

        Raises:
            UsageError: there is none.
        """
        for check in self._checks.values():
            if name == check.name or name.upper() == check.code:
                return check
        raise UsageError(self._unknown(name))

    def select(
        self,
        select: Iterable[str] = (),
        ignore: Iterable[str] = (),
        max_cost: Cost | None = None,
    ) -> list[Check]:
        """Choose by stage, name, glob, code or start of a code (``collator``, ``TS5``).

        Without a ``max_cost`` the checks that train for a while (:attr:`Cost.RUN`) are left out
        unless a word of ``select`` names them.

        Raises:
            UsageError: a word that names no check.
        """
        wanted, unwanted = list(select), list(ignore)
        if max_cost is None:
            max_cost = Cost.RUN if wanted else GATE
        for word in (*wanted, *unwanted):
            if not self.names(word):
                raise UsageError(self._unknown(word))
        return [
            check
            for check in self.all()
            if (not wanted or any(_matches(check, word) for word in wanted))
            and not any(_matches(check, word) for word in unwanted)
            and check.cost <= max_cost
        ]

    def names(self, word: str) -> bool:
        """Return whether a word selects a check."""
        return any(_matches(check, word) for check in self._checks.values())

    def speaking_of(self, word: str) -> list[Check]:
        """Return the checks whose name or page has the word, in capitals or not."""
        return [c for c in self.all() if word and word.lower() in f"{c.name}\n{c.page}".lower()]

    def _unknown(self, word: str) -> str:
        known = [k for check in self._checks.values() for k in check.keywords]
        near = difflib.get_close_matches(word, dict.fromkeys(known), n=1)
        hint = "'trainsanity list' shows them all."
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif self.speaking_of(word):
            hint = f"'trainsanity list {word}' shows those that speak of it."
        return f"no check is called {word!r}; {hint}"


def _matches(check: Check, word: str) -> bool:
    # "loss" is a stage and no beginning of a code; "ts5" can be nothing else.
    is_code = word[:1].isupper() or any(map(str.isdigit, word))
    return (
        word in (check.stage, check.name)
        or (is_code and check.code.startswith(word.upper()))
        or fnmatch.fnmatchcase(check.name, word)
    )


GROUP = "trainsanity.checks"
"""Entry-point group of checks that other packages bring."""

_registry = Registry()


def check(
    code: str,
    name: str,
    *,
    cost: Cost = Cost.STATIC,
    needs: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    explained_by: tuple[str, ...] = (),
    follows: tuple[str, ...] = (),
    rules_out: str | None = None,
    stops: bool = False,
    judges: Judges | None = None,
) -> Callable[[CheckFunction], CheckFunction]:
    """Register a check: ``@trainsanity.check("ACME001", "loss.label_smoothing", cost=...)``.

    The arguments are those of :class:`trainsanity.Check`.  The function stays as it was.
    """

    def register(fn: CheckFunction) -> CheckFunction:
        _registry.add(
            Check(code, name, fn, cost, needs, requires, explained_by, rules_out, stops, judges,
                  follows=follows)
        )  # fmt: skip
        return fn

    return register


def registry() -> Registry:
    """Return the catalogue, with the built-in checks and those of the entry-point group loaded."""
    load_package("trainsanity.checks")
    load_plugins(GROUP)
    return _registry


def takes_no_step_twice(check: Check) -> bool:
    """Return whether a check is one of ``--quick``.

    Those of the loop that cost a step evaluate, save and load; what the recorded step shows of the
    loop costs nothing more.
    """
    if check.stage != "loop" or check.cost < Cost.STEP:
        return check.cost < Cost.RUN
    return check.cost < Cost.RUN and "recording" in check.inputs
