"""The objectives, and which of them a pipeline is trained for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from trainsanity.errors import UsageError
from trainsanity.objectives.base import Objective

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

Registered = TypeVar("Registered", bound=type[Objective])

GROUP = "trainsanity.objectives"
"""Entry-point group of objectives that other packages bring."""

_objectives: dict[str, type[Objective]] = {}


def objective(cls: Registered) -> Registered:
    """Register a subclass of :class:`Objective` under its name.

    Raises:
        UsageError: it is no such class, or its name is missing or taken.
    """
    if not (isinstance(cls, type) and issubclass(cls, Objective)):
        raise UsageError(
            f"objective {cls!r} is no subclass of trainsanity.objectives.base.Objective: derive it"
        )
    taken = _objectives.get(cls.name)
    if cls.name == Objective.name or taken is not None:
        named = f"is the name of {taken.__name__}, too" if taken else "says nothing"
        raise UsageError(
            f"the name {cls.name!r} of objective {cls.__name__} {named}: give it one of its own"
        )
    _objectives[cls.name] = cls
    return cls


def objective_for(pipeline: Pipeline) -> Objective:
    """Return the objective that the pipeline is trained for.

    Those of other packages are asked first: who installs one wants it to count; then those that
    know the Trainer's class, since a language model is trained for many things.  The base class
    stands for an objective that nobody recognised.
    """
    own = __package__ + "."
    foreign_first = sorted(
        _objectives.values(), key=lambda cls: (cls.__module__.startswith(own), not cls.by_trainer)
    )
    smoothing = float(getattr(pipeline.args, "label_smoothing_factor", 0.0) or 0.0)
    for cls in foreign_first:
        if cls.matches(pipeline):
            return cls(smoothing)
    return Objective(smoothing)
