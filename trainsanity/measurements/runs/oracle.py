"""What ``evaluate()`` says of answers of known worth, in place of those that a model generates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.measurements.runs.answers import Answers
from trainsanity.objectives.base import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Written:
    """Metrics of answers that the user's own ``prediction_step`` was given by ``generate()``.

    Attributes:
        right: of the labels' own tokens, behind the prompt as a decoder returns them.
        wrong: of another row's.
        bare: of the labels' own tokens without the prompt; empty where nobody asked.
        bare_wrong: of another row's without it.
    """

    right: dict[str, Any] = field(default_factory=dict)
    wrong: dict[str, Any] = field(default_factory=dict)
    bare: dict[str, Any] = field(default_factory=dict)
    bare_wrong: dict[str, Any] = field(default_factory=dict)


class CannotWriteError(Exception):
    """What ``generate()`` was asked for is not known to be one answer for each row."""


def ask_oracle(trainer: Any, answers: Answers, evaluate: Callable[[], Any]) -> Written:
    """Evaluate with answers in the place of those that the model generates.

    Args:
        trainer: whose ``prediction_step`` generates; a decoder's.
        answers: knows the padding.
        evaluate: runs the evaluation as it is set up.
    """

    def asked(wrong: bool, prompt: bool) -> dict[str, Any]:
        with _writing(trainer, answers, wrong=wrong, prompt=prompt):
            try:
                return dict(evaluate() or {})
            except Exception:  # what these answers alone break is no evidence
                return {}

    found = Written(asked(False, True), asked(True, True))
    if found.right and found.wrong:
        found.bare, found.bare_wrong = asked(False, False), asked(True, False)
    return found


@contextmanager
def _writing(trainer: Any, answers: Answers, *, wrong: bool, prompt: bool) -> Iterator[None]:
    import torch

    step, model = trainer.prediction_step, trainer.model
    given: dict[str, Any] = {}

    def prediction_step(inner: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        given.clear()
        given.update(inputs if isinstance(inputs, Mapping) else {})
        return step(inner, inputs, *args, **kwargs)

    def generate(inputs: Any = None, *_: Any, **named: Any) -> Tensor:
        asked, labels = named.get("input_ids", inputs), given.get("labels")
        several = named.get("num_return_sequences") or named.get("return_dict_in_generate")
        if several or not torch.is_tensor(asked) or not torch.is_tensor(labels):
            raise CannotWriteError
        if labels.dim() != 2 or len(labels) != len(asked):
            raise CannotWriteError
        written = _answers(labels, answers.fill, named.get("max_new_tokens"))
        if wrong:
            written = written.roll(1, 0)
        return torch.cat([asked, written.to(asked)], 1) if prompt else written.to(asked)

    trainer.prediction_step, model.generate = prediction_step, generate
    try:
        yield
    finally:
        vars(trainer).pop("prediction_step", None)
        vars(model).pop("generate", None)


def _answers(labels: Tensor, fill: int, most: int | None) -> Tensor:
    """Return each row's counted labels from the first column on, padded."""
    import torch

    rows = [row[row != IGNORED][:most] for row in labels]
    width = max(map(len, rows))
    padded = [torch.cat([row, row.new_full((width - len(row),), fill)]) for row in rows]
    return torch.stack(padded)
