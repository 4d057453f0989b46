"""A micro-batch of the user's Trainer, to be taken again as a whole step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.random_states import global_random_states
from trainsanity.measurements.step.own import Again

if TYPE_CHECKING:
    from trainsanity.measurements.step.hooks import ModuleState


class TrainerAgain(Again):
    """A micro-batch of the user's Trainer, with the random numbers that it had."""

    def __init__(
        self,
        trainer: Any,
        step: Callable[[Any, Any], Any],
        given: Any,
        watch: Any,
        state: ModuleState,
    ) -> None:
        self._trainer, self._step, self._watch = trainer, step, watch
        self._state = state
        self._given = given
        self._put_back = global_random_states()
        self._prepared: list[Any] = []
        if isinstance(given, Mapping):
            self._prepared.append(given)
        else:
            _catch_prepared(trainer, self._prepared, self._note_random_state)

    def _note_random_state(self) -> None:
        """Begin after what was prepared: generating completions draws random numbers, too."""
        self._put_back = global_random_states()

    @property
    def inputs(self) -> Any:
        """Return the inputs of ``compute_loss``; None if they were not seen."""
        return self._prepared[0] if self._prepared else None

    def take(self, *, counted: bool = True, inputs: Any = None) -> tuple[float, float | None]:
        """Take the micro-batch again, or another with its random numbers; see :class:`Again`."""
        given, prepared = self._given, self._prepared
        if isinstance(given, Mapping):
            given, prepared = dict(given if inputs is None else inputs), []
        elif inputs is not None:
            prepared = [dict(inputs)]
        items = None
        if hasattr(self._trainer, "get_batch_samples"):
            _, items = _batch_samples(self._trainer, given)
        if not counted and items is None:
            return float("nan"), None
        self._put_back()
        self._state.put_back()
        with _prepared(self._trainer, prepared):
            loss = self._step(given, items if counted else None)
        del self._watch.passes[:]  # logits of a large vocabulary are not kept for nothing
        return float(loss), None if items is None else float(items)


def _batch_samples(trainer: Any, inputs: Any) -> Any:
    """Count the items of one micro-batch as the Trainer does."""
    from transformers import Trainer

    # As the loop calls it, whose version tells; an override may take whatever comes (*args).
    wanted = inspect.signature(Trainer.get_batch_samples).parameters
    device = (trainer.args.device,) if "device" in wanted else ()
    return trainer.get_batch_samples(iter([inputs]), 1, *device)


def _catch_prepared(trainer: Any, prepared: list[Any], then: Callable[[], None]) -> None:
    """Note what the next call of ``_prepare_inputs`` makes, and call ``then``."""
    prepare = trainer._prepare_inputs

    def catching(inputs: Any) -> Any:
        made = prepare(inputs)
        prepared.append(dict(made) if isinstance(made, Mapping) else made)
        then()
        trainer._prepare_inputs = prepare
        return made

    trainer._prepare_inputs = catching


@contextmanager
def _prepared(trainer: Any, prepared: list[Any]) -> Iterator[None]:
    """Give ``training_step`` what was prepared before, in place of preparing it anew."""
    if not prepared:
        yield
        return
    prepare = trainer._prepare_inputs
    trainer._prepare_inputs = lambda inputs: dict(prepared[0])
    try:
        yield
    finally:
        trainer._prepare_inputs = prepare
