"""How measurements are registered, taken once, and shared.

A measurement is a function whose parameters name other measurements or ``pipeline``.  Its value,
or the exception it raised, is kept for the pipeline's lifetime.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.loading import load_package
from trainsanity.errors import UsageError
from trainsanity.isolation.out_of_memory import described, give_back, out_of_memory
from trainsanity.isolation.time_limit import limited
from trainsanity.types import Abstain, Blocked, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.isolation.pass_counter import Passes
    from trainsanity.pipeline import Pipeline


class MeasurementError(Exception):
    """A measurement raised; ``first`` is true for the check that asked first."""

    def __init__(self, name: str, error: BaseException, *, first: bool) -> None:
        super().__init__(described(f"measurement {name!r}", error))
        self.name, self.error, self.first = name, error, first


@dataclass(frozen=True)
class Measurement:
    """A named look with its cost.

    Attributes:
        name: the function's.
        fn: what takes it.
        cost: the most that it costs by itself.
        forwards: about how many forward passes it takes of a pipeline, a backward pass counted as
            two: for an estimate of the time that is left, and no promise.
    """

    name: str
    fn: Callable[..., Any]
    cost: Cost
    forwards: Callable[[Pipeline], int] = lambda pipeline: 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the measurements that the function asks for."""
        return tuple(inspect.signature(self.fn).parameters)

    @property
    def title(self) -> str:
        """The first line of the function's docstring, without its full stop."""
        return (inspect.getdoc(self.fn) or "").partition("\n")[0].replace("``", "").rstrip(".")

    @property
    def total_cost(self) -> Cost:
        """Return its own cost or that of the dearest measurement below it."""
        below = (catalogue()[look].total_cost for look in self.inputs if look != "pipeline")
        return max((self.cost, *below))


_catalogue: dict[str, Measurement] = {}


def catalogue() -> dict[str, Measurement]:
    """Return every measurement by its name."""
    load_package("trainsanity.measurements")
    return _catalogue


def measurement(
    cost: Cost, forwards: Callable[[Pipeline], int] = lambda pipeline: 0
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as the measurement of its name, with about how many passes it takes."""

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        _catalogue[fn.__name__] = Measurement(fn.__name__, fn, cost, forwards)
        return fn

    return register


class Measurements:
    """The measurements of one pipeline, taken when first asked for."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.known_hashes: dict[Any, Any] = {}
        """Hashes of the weights as the last measurement left them; for the guard's own use."""
        self._values: dict[str, Any] = {"pipeline": pipeline}
        self._errors: dict[str, Exception | SystemExit] = {}
        self.seconds: dict[str, float] = {}
        self.passes: dict[str, Passes] = {}
        """Passes of each measurement; those that it asked for are counted apart."""
        self._being_taken: list[str] = []
        self.limit: float | None = None
        """Seconds that each may take; see :func:`.limits.limited`."""
        self.on_start: Callable[[str], None] = lambda name: None
        """Called with each measurement's name before it is taken, for a progress line."""

    @property
    def raised(self) -> frozenset[str]:
        """Return the names of measurements that raised, for whatever reason."""
        return frozenset(self._errors)

    def get(self, name: str) -> Any:
        """The value of the measurement of that name.

        Raises:
            Skip, Abstain, Blocked, UsageError: as the measurement raised them, each time.
            MeasurementError: the measurement raised something else.
        """
        if name in self._values:
            return self._values[name]
        if name in self._errors:
            raise _again(name, self._errors[name], first=False)
        from trainsanity.isolation.fingerprint import guarded
        from trainsanity.isolation.pass_counter import counted
        from trainsanity.isolation.unwritten import weights_unwritten

        look = catalogue()[name]
        arguments = {other: self.get(other) for other in look.inputs}
        self.on_start(name)
        self._being_taken.append(name)
        start = time.perf_counter()
        try:
            with (
                limited(self.limit, f"measurement {name!r}"),
                guarded(self._pipeline, f"measurement {name!r}", self.known_hashes),
                weights_unwritten(self._pipeline.unwritten),
                counted(self._pipeline.model) as self.passes[name],
            ):
                value = look.fn(**arguments)
        except (Exception, SystemExit) as error:
            # A model that exits must not end the run, perhaps with the code of a sane pipeline.
            self._errors[name] = error
            if out_of_memory(error) is not None:
                give_back(error)
            raise _again(name, error, first=True) from error
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            self._being_taken.remove(name)
            for other in self._being_taken:  # it asked for this one in its own run
                if name in self.passes:
                    self.passes[other] -= self.passes[name]
                self.seconds[other] = self.seconds.get(other, 0.0) - self.seconds[name]
        self._values[name] = value
        return value

    def seconds_left(self, wanted: Iterable[str]) -> float | None:
        """Return an estimate of what measurements will take that have not been; None without one.

        Their passes are those that each expects, at the pace of those that were taken.

        Args:
            wanted: names of measurements; those that they ask for are counted, too.
        """
        every, waiting = set[str](), [*wanted]
        while waiting:
            name = waiting.pop()
            if name in every or name == "pipeline":
                continue
            every.add(name)
            waiting.extend(catalogue()[name].inputs)
        timed = [name for name in self.passes if self.passes[name]]
        passes = sum(self.passes[name].forwards + 2 * self.passes[name].backwards for name in timed)
        if not passes:
            return None
        known = self._values.keys() | self._errors.keys()
        left = sum(catalogue()[name].forwards(self._pipeline) for name in every - known)
        return left * sum(self.seconds.get(name, 0.0) for name in timed) / passes

    def taken(self, name: str) -> Any:
        """The value of a measurement that was asked for before; none is taken for this.

        Raises:
            Skip: there is no value; the text says why.
        """
        if name in self._values:
            return self._values[name]
        if name in self._errors:
            error = self._errors[name]
            raise Skip(str(_again(name, error, first=False))) from error
        for other in catalogue()[name].inputs:
            self.taken(other)
        raise Skip(f"{name!r} was not measured: no check that ran asked for it")


def _again(name: str, error: BaseException, *, first: bool) -> Exception:
    if isinstance(error, Skip | Abstain | Blocked | UsageError | MeasurementError):
        return error
    return MeasurementError(name, error, first=first)
