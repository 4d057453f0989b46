"""Build a pipeline when it is needed, and clean up after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainsanity.engine.session import check_declared
from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.fsdp import complete
from trainsanity.pipeline import Pipeline
from trainsanity.sources.patching import NewFolders

T = TypeVar("T")


def from_trainer(trainer: Any, notes: Sequence[str] = ()) -> Pipeline:
    """Return the pipeline of a Trainer, with the weights on every process.

    Raises:
        UsageError: as :meth:`Pipeline.from_trainer` does.
    """
    complete(trainer)
    return Pipeline.from_trainer(trainer, notes)


def declare(pipeline: Pipeline, *objectives: tuple[str | None, str]) -> None:
    """Give a pipeline the first objective that the user declared, its own before these.

    Args:
        pipeline: which may have one of its own.
        objectives: each with the place where it is declared.

    Raises:
        UsageError: there is no such objective.
    """
    for name, where in ((pipeline.objective, "objective of the Pipeline"), *objectives):
        check_declared(name, f"{pipeline.id}: {where}")
        pipeline.objective = pipeline.objective or name


@dataclass(frozen=True)
class PipelineSpec:
    """How to build a pipeline, later: ``build`` is never called while tests are collected.

    Attributes:
        id: the pipeline's name in reports and tests.
        build: takes nothing, returns a ``transformers.Trainer`` or a :class:`Pipeline`; its
            attribute ``objective``, if it has one, declares the objective, as in :class:`Pipeline`.
        marks: pytest marks, for example ``(pytest.mark.gpu,)``.
        expected_failures: check name to the reason why its failure is accepted here.
        objective: the same where ``build`` has no such attribute.
        options: for the pipeline's own use.
        command: as in :class:`Pipeline`.
    """

    id: str
    build: Callable[[], Any]
    marks: tuple[Any, ...] = ()
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    objective: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, reason in self.expected_failures.items():
            if not str(reason).strip():
                raise UsageError(f"expected failure {name!r} of {self.id!r} needs a reason")

    def make(self) -> Pipeline:
        """Build the pipeline now.

        Raises:
            UsageError: ``build`` raised, or returned neither a Trainer nor a Pipeline.
        """
        try:
            built = self.build()
        except (UsageError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise UsageError(
                f"{self.id} raised {type(error).__name__}: {first_line(error)}; "
                "it has to run without arguments and return a Trainer"
            ) from error
        if not isinstance(built, Pipeline):
            from transformers import Trainer

            if not isinstance(built, Trainer):
                raise UsageError(
                    f"{self.id} returned {type(built).__name__}, not a transformers.Trainer; "
                    "return the Trainer that you would call train() on"
                )
            built = from_trainer(built)
        built.refuse_unusable_model()
        built.id, built.command = self.id, self.command
        of_function = getattr(self.build, "objective", None)
        declare(built, (of_function, "objective of the function"), (self.objective, "objective"))
        return built

    @contextlib.contextmanager
    def built(self) -> Iterator[Pipeline]:
        """Yield the pipeline, built now; remove its Trainers' empty output folders at the end."""
        folders = NewFolders()
        try:
            with folders.noted():
                pipeline = self.make()
            yield pipeline
        finally:
            folders.remove_empty()

    def visit(self, judge: Callable[[Pipeline], T]) -> T:
        """Build the pipeline and return what ``judge`` returns for it."""
        with self.built() as pipeline:
            return judge(pipeline)
