"""Build a pipeline when it is needed, and clean up after it."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainsanity.declared import DECLARED, refuse_undeclarable
from trainsanity.engine.session import check_declared
from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.fsdp import complete, prepared
from trainsanity.isolation.library_warnings import LibraryWarning, listening, loads
from trainsanity.isolation.time_limit import TimedOut, limited
from trainsanity.pipeline import Pipeline
from trainsanity.sources.patching import MODULE, NewFolders, patched
from trainsanity.sources.raised import place_of
from trainsanity.sources.returning import refuse_without_result

T = TypeVar("T")


def from_trainer(trainer: Any, notes: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline of a Trainer, with the weights on every process, in parts or whole.

    Raises:
        UsageError: as :meth:`Pipeline.from_trainer` does.
    """
    done = prepared(trainer)
    if not done:
        complete(trainer)
    return Pipeline.from_trainer(trainer, [*notes, done] if done else notes)


@contextlib.contextmanager
def _own_arguments(command: Sequence[str]) -> Iterator[None]:
    """Give code that calls ``parse_args()`` its own arguments, and not those of the caller.

    Where nothing is known of them, as of a function that a test hands over, it sees none.
    """
    before = sys.argv
    sys.argv = [*(command or before[:1])]
    try:
        yield
    finally:
        sys.argv = before


def declare(pipeline: Pipeline, *said: Mapping[str, str | None]) -> None:
    """Set what the pipeline does not say itself; where several say it, the first counts.

    Raises:
        UsageError: a value is unknown.
    """
    for name in DECLARED:
        values = [getattr(pipeline, name), *(one.get(name) for one in said)]
        value = next((value for value in values if value is not None), None)
        if value is not None:
            refuse_undeclarable(name, value)
        setattr(pipeline, name, value)
    check_declared(pipeline.objective, f"{pipeline.id}: objective")


BUILDING = 45.0
"""Seconds beside a check's time limit that a factory may take: it imports torch, which takes some
seconds from a cold disk, and loads a model, which takes some tens."""


@dataclass(frozen=True)
class PipelineSpec:
    """How to build a pipeline, later: ``build`` is never called while tests are collected.

    Attributes:
        id: the pipeline's name in reports and tests.
        build: takes nothing, returns a ``transformers.Trainer`` or a :class:`Pipeline`; its
            attributes ``objective`` and ``supervise``, if it has them, declare these.
        marks: pytest marks, for example ``(pytest.mark.gpu,)``.
        expected_failures: check name to the reason why its failure is accepted here.
        options: for the pipeline's own use.
        command: as in :class:`Pipeline`; ``sys.argv`` while the pipeline is built.
        declared: settings such as ``objective``, for a pipeline and a factory without their own.
        timeout: seconds that ``build`` may take; None for no limit.
    """

    id: str
    build: Callable[[], Any]
    marks: tuple[Any, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    declared: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, reason in self.expected_failures.items():
            if not str(reason).strip():
                raise UsageError(f"expected failure {name!r} of {self.id!r} needs a reason")

    def make(self) -> Pipeline:
        """Build the pipeline now.

        Raises:
            UsageError: ``build`` raised, or returned neither a Trainer nor a Pipeline.
        """
        refuse_without_result(self.id, self.build, self.command[1:])
        heard: list[LibraryWarning] = []
        try:
            with (
                limited(self.timeout, f"building {self.id}"),
                listening(heard) as listener,
                patched(MODULE, loads(listener)),
            ):
                built = self.build()
        except (UsageError, KeyboardInterrupt):
            raise
        except TimedOut as error:
            raise UsageError(f"{error}: give it more, or mend what it waits for") from error
        except SystemExit as error:
            # parse_args() has written what it misses to stderr.
            raise UsageError(
                f"{self.id} raised SystemExit: {first_line(error)}; if it parses arguments, give "
                f"them after --: trainsanity run {(self.command or (self.id,))[0]} -- ARGUMENTS"
            ) from error
        except BaseException as error:
            # Where no line of the function was reached, the call itself is what it refuses.
            more = place_of(error) or "; it has to run without arguments and return a Trainer"
            raise UsageError(
                f"{self.id} raised {type(error).__name__}: {first_line(error)}{more}"
            ) from error
        if not isinstance(built, Pipeline):
            from transformers import Trainer

            if inspect.iscoroutine(built):
                built.close()
                raise UsageError(
                    f"{self.id} is a coroutine function: build the Trainer in one that is written "
                    "with def, not with async def"
                )
            if not isinstance(built, Trainer):
                raise UsageError(
                    f"{self.id} returned {type(built).__name__}, not a transformers.Trainer; "
                    "return the Trainer that you would call train() on"
                )
            built = from_trainer(built)
        built.refuse_unusable_model()
        built.id, built.command = self.id, self.command
        built.library_warnings = heard
        # A target's function is known only after it was imported, by the call above.
        function = getattr(self.build, "__wrapped__", self.build)
        declare(built, {name: getattr(function, name, None) for name in DECLARED}, self.declared)
        return built

    @contextlib.contextmanager
    def built(self) -> Iterator[Pipeline]:
        """Yield the pipeline, built now; remove its Trainers' empty output folders at the end."""
        folders = NewFolders()
        try:
            with folders.noted(), _own_arguments(self.command):
                pipeline = self.make()
            yield pipeline
        finally:
            folders.remove_empty()

    def visit(self, judge: Callable[[Pipeline], T]) -> T:
        """Build the pipeline and return what ``judge`` returns for it."""
        with self.built() as pipeline:
            return judge(pipeline)
