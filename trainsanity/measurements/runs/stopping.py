"""The user's own early stopping, told of evaluations that get better and of others."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.engine.store import measurement
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.step.later import names_in
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.measurements.runs.scored import Scored
    from trainsanity.pipeline import Pipeline

MOST = 12
"""Evaluations that a callback is told of: a metric between 0 and 1 has room for as many that are
clearly better, each by more than a threshold of a hundredth."""

PATIENCE = 5
"""The longest patience that is asked about, for the same reason."""


@dataclass(frozen=True)
class Stopping:
    """How one callback stops a run.

    Attributes:
        name: of its class.
        patience: evaluations without a gain after which it stops; None if it does not.
        improving: after how many it stops where each is better than all before; None if never.
        between: the same where every second one is the best so far, and none in between.
    """

    name: str
    patience: int | None
    improving: int | None
    between: int | None


@measurement(Cost.STEP)
def stopping(pipeline: Pipeline) -> list[Stopping]:
    """Tell the callbacks that stop a run of made-up evaluations, each time from their beginning.

    A metric that is no loss is taken to be better when it rises, and then when it falls; what
    stops a run under one of these alone is no finding.

    Raises:
        Skip: a callback stops the run, and nothing can be evaluated here.
    """
    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("a custom training loop has no callbacks")
    callbacks = [
        one
        for one in trainer.callback_handler.callbacks
        if own_methods(one, ("on_evaluate",)) and "should_training_stop" in names_in(type(one))
    ]
    if not callbacks:
        return []
    scored: Scored = Session.of(pipeline).measurements.get("scored")
    if scored.error or not scored.metrics:
        raise Skip("evaluate() returns no metrics here")

    def asked(callback: Any, better: Sequence[float]) -> int | None:
        found = []
        for rises in (True, False):
            with preserved(pipeline), quiet(pipeline), contextlib.redirect_stdout(io.StringIO()):
                told = [_metrics(scored.metrics, one, rises=rises) for one in better]
                found.append(_stops(trainer, callback, told))
        return None if None in found else max(one for one in found if one is not None)

    made = []
    for callback in callbacks:
        worse = asked(callback, [0.5, *[0.1] * MOST])
        patience = worse if worse and worse <= PATIENCE else None
        improving = asked(callback, [k / MOST for k in range(MOST)])
        between = None
        if patience is not None and patience > 1:
            rounds = range(1, patience + 2)
            zigzag = [one / (PATIENCE + 2) for k in rounds for one in (k, k - 0.5)]
            between = asked(callback, zigzag)
        made.append(Stopping(type(callback).__name__, patience, improving, between))
    return made


def _metrics(names: Mapping[str, Any], better: float, *, rises: bool) -> dict[str, Any]:
    """Return metrics that are as good as a number from 0 to 1 says."""
    made: dict[str, Any] = {}
    for name, value in names.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            made[name] = value
        elif name.endswith("loss"):
            made[name] = 3.0 - 2.5 * better
        else:
            made[name] = 0.05 + 0.9 * (better if rises else 1 - better)
    return made


def _stops(trainer: Any, callback: Any, told: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the number of the evaluation at which it stops the run, counted from 0."""
    state, control = copy.copy(trainer.state), copy.copy(trainer.control)
    state.log_history = list(state.log_history or ())
    control.should_training_stop = False
    hear: Callable[..., Any] = callback.on_evaluate
    for number, metrics in enumerate(told):
        state.global_step, state.epoch = 10 * (number + 1), float(number + 1)
        state.log_history.append({**metrics, "step": state.global_step, "epoch": state.epoch})
        try:
            answer = hear(trainer.args, state, control, model=trainer.model, metrics=dict(metrics))
        except Exception as error:
            raise Skip(f"{type(callback).__name__} raised {type(error).__name__}") from error
        control = answer or control
        if control.should_training_stop:
            return number
    return None
