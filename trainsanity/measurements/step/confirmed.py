"""Comparison of the recognised objective's formula with the loss that the user's code computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.maths.factors import NAMING, name_factor
from trainsanity.maths.tolerances import MARGIN, REDUCTIONS, within
from trainsanity.measurements.model.items import with_prompt
from trainsanity.measurements.step.added import added_loss, same_for_all_rows
from trainsanity.measurements.step.bounds import logged_loss_rounding, loss_rounding
from trainsanity.measurements.step.captured_loss import owner_in_captured
from trainsanity.measurements.step.output_again import logits_again
from trainsanity.measurements.step.owners import named, of_a_library
from trainsanity.measurements.step.rearranged import layers_in_eval, picked, rows_of
from trainsanity.measurements.step.reference_loss import reference
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.measurements.step.training_mode import as_in_training
from trainsanity.objectives.base import CUSTOM
from trainsanity.objectives.wrong_formulas import (
    NOT_SHIFTED,
    WRONG,
    mean_of_row_means,
    mean_over,
    recognised,
)
from trainsanity.types import Blocked, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

PLAIN = ("nll", "chunked_nll")
"""Settings of ``loss_type`` that mean the plain cross entropy; others are losses of their own."""

COARSEST = 1e-2
"""Relative; with a wider tolerance a loss of its own would soon be a quantity of the run."""


SHIFTED = (
    "the labels are the next tokens already, and the loss takes them as they are: the laws and "
    "loss.predicts_the_next_token judge it"
)


@dataclass(frozen=True)
class Confirmed:
    """Answer of the first step's own losses to whether the objective's formula holds.

    Attributes:
        formula: each micro-batch's own loss is the formula's.
        owner: whose code computes the loss, ``module.function``; empty if it is a library's.
        mistake: the known mistake whose value the loss has; empty if none.
        custom: the loss is code of the user's own and no formula known here, or declared so.
        declared: the user declares the objective by name, so that another loss is a fault.
        scaled: it is the formula times a quantity of the run: a fault of the scale, which
            ``loss.matches_reference`` names.
        rows: it is the mean of row means, a choice.
        loss, expected: of the first micro-batch that differs, or of the first.
        redrawn: the loss with other random numbers, where it draws some of its own; else NaN.
        added: what the model's own forward adds to the formula, such as the loss that balances
            experts, with its weight; empty if nothing.
        shifted: it is the formula for labels that are the next tokens already.
        several: the user's own code ran the model more than once, or not at all, for a micro-batch:
            no single pass is the formula's, and nothing was compared.
        times: how often the step counts what is added, where that is once a micro-batch while the
            formula's part is a mean over all of them; else 1.
    """

    formula: bool = True
    owner: str = ""
    mistake: str = ""
    custom: bool = False
    declared: bool = False
    scaled: bool = False
    rows: bool = False
    loss: float = float("nan")
    expected: float = float("nan")
    redrawn: float = float("nan")
    added: str = ""
    times: int = 1
    shifted: bool = False
    several: bool = False

    @property
    def words(self) -> str:
        """Return the outcome for the report; empty where nothing was compared."""
        if self.added:
            return f"confirmed with {self.added} beside it, which the model itself adds"
        if self.mistake:
            return f"not confirmed: {self.owner} computes another loss ({self.mistake})"
        if self.custom:
            owner = self.owner or "what the model returns"
            return f"{owner} is a loss of its own, judged by the laws"
        if self.rows:
            return f"{self.owner} takes the mean of row means"
        if math.isfinite(self.loss) and self.formula:
            return f"confirmed by its first loss, {self.loss:.6g}, computed {self.expected:.6g}"
        return ""

    def require(self) -> None:
        """Stop what asks for the formula where the loss is another one.

        Raises:
            Skip: by the user's choice.
            Blocked: by a mistake that ``loss.formula_is_known`` names.
        """
        if self.added:
            raise Skip(
                f"the loss is the formula and {self.added}, which the model itself adds: "
                "loss.formula_is_known holds both against it, and the laws judge the rest"
            )
        if self.shifted:
            raise Skip(SHIFTED)
        if self.several:
            raise Skip(
                f"{self.owner} runs the model other than once for a micro-batch: no formula was "
                "confirmed, and the laws judge it"
            )
        if self.mistake or (self.declared and self.custom):
            raise Blocked(f"{self.owner} is not the formula", by="loss.formula_is_known")
        if self.custom or self.rows:
            owner = self.owner or "what the model returns"
            raise Skip(
                f"{owner} is a loss of its own, which no formula here gives: the laws judge it"
            )


@measurement(Cost.STEP)
def confirmed(pipeline: Pipeline, recording: Recording) -> Confirmed:
    """Hold each micro-batch's own loss against the objective's formula on its own items."""
    known, own = objective_of(pipeline).known, recording.own
    owner = owner_of_the_loss(pipeline)
    if pipeline.objective == CUSTOM:
        return Confirmed(formula=False, owner=owner or "the loss", custom=True)
    micros = recording.first.micro_steps
    if owner and any(isinstance(micro.error, Skip) for micro in micros):
        return Confirmed(formula=False, owner=owner, custom=True)  # its labels are of another kind
    if not known or any(micro.items is None for micro in micros):
        failed = any(micro.error is not None for micro in micros)
        own_code = bool(owner) and known and not failed and pipeline.trainer is not None
        return Confirmed(
            owner=owner, several=own_code and any("labels" in m.inputs for m in micros)
        )
    if not owner:
        return _of_the_library(pipeline, recording)
    if own.losses:
        count = len(own.losses)
        asked = [(loss, micros[k::count]) for k, loss in enumerate(own.losses)]
    else:
        logged = recording.first.logged.get("loss")
        # A custom training loop shows the whole step alone; that its loss is too large by a factor
        # of the run is a fault of the step and not of the formula.
        if logged is None or _by_a_factor(pipeline, recording, logged):
            return Confirmed(owner=owner)
        asked = [(logged, micros)]
    all_found = [_compared(pipeline, recording, owner, loss, same) for loss, same in asked]
    found = next((one for one in all_found if not one.formula), all_found[-1])
    if found.mistake and any(one.mistake != found.mistake for one in all_found):
        # One micro-batch has a mistake's value by chance; the others have not.
        found = replace(found, mistake="", custom=True)
    if not found.formula:
        return found
    # That a loss has the formula's value says little where it is another one at the next draw.
    if math.isfinite(recording.rearranged.redrawn) and not found.scaled:
        return replace(
            found,
            formula=False,
            custom=True,
            declared=pipeline.objective is not None,
            redrawn=recording.rearranged.redrawn,
        )
    return found


def _compared(
    pipeline: Pipeline, recording: Recording, owner: str, loss: float, micros: list[MicroStep]
) -> Confirmed:
    """Hold one loss against the formula on the micro-batches that it is the loss of."""
    means = [float(micro.items.losses.mean()) for micro in micros if micro.items is not None]
    expected = sum(means) / len(means)
    allowed = _allowed(recording, micros, max(means))
    if within(min(means) - loss, allowed) and within(loss - max(means), allowed):
        return Confirmed(owner=owner, loss=loss, expected=expected)
    added, _ = added_loss(pipeline, recording, micros, loss - expected, allowed)
    if added:
        return Confirmed(False, owner, loss=loss, expected=expected, added=added)
    mistake, rows = _recognised(pipeline, recording, micros, loss, allowed)
    if mistake == NOT_SHIFTED and recording.pulls.aims.ahead == 1:
        return Confirmed(False, owner, loss=loss, expected=expected, shifted=True)
    if not mistake and not rows and _scaled(recording.facts(pipeline), loss, expected, allowed):
        return Confirmed(owner=owner, scaled=True, loss=loss, expected=expected)
    return Confirmed(
        False,
        owner,
        mistake,
        custom=not mistake and not rows,
        declared=pipeline.objective is not None,
        rows=rows,
        loss=loss,
        expected=expected,
    )


def _allowed(recording: Recording, micros: list[MicroStep], size: float) -> float:
    if not recording.own.losses:
        return logged_loss_rounding(micros) + REDUCTIONS * abs(size)
    # These were not read from a log, which cuts decimals off.
    return loss_rounding(micros) + (MARGIN * recording.own.eps + REDUCTIONS) * abs(size)


def _of_the_library(pipeline: Pipeline, recording: Recording) -> Confirmed:
    """Look for what a library's model adds to the formula, in every micro-batch alike."""
    micros, losses = recording.first.micro_steps, recording.own.losses
    found: set[str] = set()
    sizes: list[float] = []
    loss = expected = float("nan")
    for k, loss in enumerate(losses):
        same = micros[k :: len(losses)]
        means = [float(micro.items.losses.mean()) for micro in same if micro.items is not None]
        expected = sum(means) / len(means)
        allowed = _allowed(recording, same, max(means))
        if within(abs(loss - expected), allowed):
            return Confirmed()
        rest = loss - expected
        added, size = added_loss(pipeline, recording, same, rest, allowed)
        if not added and k == 0:
            added, size = same_for_all_rows(pipeline, recording, same[0], rest, allowed), rest
        elif not added and sizes and within(abs(rest - sizes[0]), allowed):
            added, size = next(iter(found)), rest
        found.add(added)
        sizes.append(size)
    if found == {""} and _is_the_models_own(pipeline, recording):
        return Confirmed(False, loss=loss, expected=expected, custom=True)
    if len(found) != 1 or not (added := found.pop()):
        return Confirmed()
    times, logged = 1, recording.first.logged.get("loss")
    if logged is not None and len(sizes) > 1:
        rest = logged - reference(pipeline, recording.first).mean
        if within(abs(rest - sum(sizes)), _allowed(recording, micros, logged)):
            times = len(sizes)
    return Confirmed(False, loss=loss, expected=expected, added=added, times=times)


def _is_the_models_own(pipeline: Pipeline, recording: Recording) -> bool:
    """Return whether a library's model defines a loss that is no formula's, nor times a quantity.

    As ProphetNet does, which predicts two words at each place.  A loss function that was put into
    the model, or labels that the Trainer smooths, are the user's.
    """
    losses, micros = recording.own.losses, recording.first.micro_steps
    model = _unwrapped(pipeline.model)
    if getattr(pipeline.trainer, "label_smoother", None) is not None:
        return False
    # Processes with other weights than the first have other losses for the same rows.
    if any(one != held[0] for held in recording.held.values() for one in held):
        return False
    if not of_a_library(getattr(model, "loss_function", None) or type(model)):
        return False
    facts = recording.facts(pipeline)
    for k, loss in enumerate(losses):
        same = micros[k :: len(losses)]
        parts = [micro.items for micro in same if micro.items is not None]
        expected = sum(float(part.losses.mean()) for part in parts) / len(parts)
        allowed = _allowed(recording, same, expected)
        # The right sum by a whole number is the right loss by a wrong count.
        divisor = sum(float(part.losses.sum()) for part in parts) / loss if loss else 0.0
        error = MARGIN * allowed * divisor / loss if loss else 0.0
        if divisor >= 1 and within(abs(divisor - round(divisor)), error):
            return False
        if _scaled(facts, loss, expected, allowed):
            return False
        if any(_recognised(pipeline, recording, same, loss, allowed)):
            return False
    return True


def _by_a_factor(pipeline: Pipeline, recording: Recording, logged: float) -> bool:
    try:
        expected = reference(pipeline, recording.first).mean
    except Skip:
        return True
    allowed = logged_loss_rounding(recording.first.micro_steps)
    return within(abs(logged - expected), allowed) or _scaled(
        recording.facts(pipeline), logged, expected, allowed
    )


def _scaled(facts: dict[str, Any], loss: float, expected: float, allowed: float) -> bool:
    """Return whether it is the expected loss times a quantity of the run, or divided by one."""
    if not expected:
        return False
    tolerance = min(max(allowed / abs(expected), NAMING), COARSEST)
    return bool(name_factor(loss / expected, facts, tolerance))


def owner_of_the_loss(pipeline: Pipeline) -> str:
    """Return whose code computes the loss, if it is no library's."""
    trainer = pipeline.trainer
    if pipeline.captured is not None:
        return owner_in_captured(pipeline)
    if trainer is None:
        return named(pipeline.train_step)
    kind = getattr(trainer.args, "loss_type", None)
    if isinstance(kind, str) and kind not in PLAIN:
        return f"the loss of loss_type={kind!r}"
    for candidate in (
        getattr(trainer, "compute_loss_func", None),
        trainer.compute_loss,
        type(_unwrapped(pipeline.model)).forward,
    ):
        if callable(candidate) and not of_a_library(candidate):
            return named(candidate)
    return ""


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _of_rows_alone(
    pipeline: Pipeline, recording: Recording, micro: MicroStep, mistake: str
) -> bool:
    """Return whether the losses of single rows have the mistake's value, too, or were not asked.

    At the start all losses lie near the logarithm of the number of classes, and one value of a
    mistake is soon met by chance.
    """
    import torch

    seen, trainer = recording.rearranged, pipeline.trainer
    size, first = rows_of(micro.inputs), micro is recording.first.micro_steps[0]
    if trainer is None or size is None or seen.drawn or not first:
        return True
    if not all(map(math.isfinite, seen.alone)):
        return True
    with as_in_training(pipeline, recording), layers_in_eval(trainer), torch.no_grad():
        for k, loss in enumerate(seen.alone):
            row = replace(micro, inputs=picked(micro.inputs, size, [k]))
            logits = logits_again(pipeline, row)
            labels = with_prompt(logits, row.inputs["labels"].to(logits.device))
            allowed = (MARGIN * seen.eps + REDUCTIONS) * max(1.0, abs(loss))
            value = mean_over(WRONG[mistake], objective_of(pipeline), [(logits, labels)])
            if value is not None and not within(abs(value - loss), allowed):
                return False
    return True


def _recognised(
    pipeline: Pipeline,
    recording: Recording,
    micros: list[MicroStep],
    loss: float,
    allowed: float,
) -> tuple[str, bool]:
    """Ask for the whole logits again: which mistake gives this loss, and whether row means do."""
    import torch

    objective, batches = objective_of(pipeline), []
    # Other processes' are not here; said before any forward, which all have to take together.
    if any(micro.inputs.get("labels") is None for micro in micros):
        return "", False
    with as_in_training(pipeline, recording), torch.no_grad():
        for micro in micros:
            labels = micro.inputs["labels"]
            logits = logits_again(pipeline, micro)
            batches.append((logits, with_prompt(logits, labels.to(logits.device))))
    try:
        rows = mean_over(mean_of_row_means, objective, batches)
        if rows is not None and abs(rows - loss) <= allowed:
            return "", True
        mistake = recognised(objective, batches, loss, allowed)
        if mistake and not _of_rows_alone(pipeline, recording, micros[0], mistake):
            mistake = ""
        return mistake, False
    except (RuntimeError, IndexError):  # shapes that a formula does not expect
        return "", False
