"""The objectives, and which of them a pipeline is trained for."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

from trainsanity.errors import UsageError
from trainsanity.objectives.base import CUSTOM, Objective

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
    if cls.name in (Objective.name, CUSTOM) or taken is not None:
        named = f"is the name of {taken.__name__}, too" if taken else "says nothing"
        raise UsageError(
            f"the name {cls.name!r} of objective {cls.__name__} {named}: give it one of its own"
        )
    _objectives[cls.name] = cls
    return cls


def require_declared(name: object, where: str) -> None:
    """Refuse a declared objective that does not exist.

    Args:
        name: as the user declared it.
        where: that place, for the message.

    Raises:
        UsageError: it is neither ``custom`` nor the name of an objective that is registered.
    """
    if isinstance(name, str) and (name == CUSTOM or name in _objectives):
        return
    names = [CUSTOM, *sorted(_objectives)]
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise UsageError(f"{where}: there is no objective {name!r}; {hint}")


def objective_for(pipeline: Pipeline) -> Objective:
    """Return the objective that the pipeline is trained for.

    One that the user declares by name is taken at the word; ``custom`` declares the loss alone,
    and labels and head are still those of the objective that is recognised.
    Those of other packages are asked first: who installs one wants it to count; then those that
    know the Trainer's class, since a language model is trained for many things.  The base class
    stands for an objective that nobody recognised.
    """
    own = __package__ + "."
    foreign_first = sorted(
        _objectives.values(), key=lambda cls: (cls.__module__.startswith(own), not cls.by_trainer)
    )
    smoothing = float(getattr(pipeline.args, "label_smoothing_factor", 0.0) or 0.0)
    if pipeline.objective not in (None, CUSTOM):
        require_declared(pipeline.objective, "objective")
        return _objectives[pipeline.objective](smoothing)
    for cls in foreign_first:
        if cls.matches(pipeline):
            return cls(smoothing)
    return Objective(smoothing)
