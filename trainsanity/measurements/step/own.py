"""The first step's micro-batches, each asked again as a whole step of its own.

The user's own ``training_step`` runs: same weights, same random numbers, the micro-batch's own item
count, and ``gradient_accumulation_steps`` of 1. Nothing is known of the loss. What comes back is
what a step of that micro-batch alone would log and add to the gradient, so the whole step can be
held against a mean of these, whatever the objective.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from trainsanity.errors import first_line
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.compiled import not_compiled
from trainsanity.isolation.hashing import hashes
from trainsanity.isolation.host_memory import to_device, to_host
from trainsanity.isolation.random_states import global_random_states
from trainsanity.isolation.snapshot import restored
from trainsanity.measurements.step.bounds import gradient_unit
from trainsanity.measurements.step.gradient_samples import (
    AT_MOST,
    ELEMENTS,
    sampled,
    sampled_of,
)
from trainsanity.measurements.step.guided import Guided, ask_guided
from trainsanity.measurements.step.hooks import state_of
from trainsanity.measurements.step.outputs_formula import ask_outputs
from trainsanity.measurements.step.policy_passes import ask_policy
from trainsanity.measurements.step.preference import ask_preference
from trainsanity.measurements.step.rearranged import rearrange
from trainsanity.measurements.step.settings import ask_settings
from trainsanity.measurements.step.unused import unused_parameters

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import Recording
    from trainsanity.objectives.base import Objective


UNSEEDED = (
    "the first micro-batch has another loss or gradient each time: it depends on what was computed "
    "before, or draws random numbers that no seed reaches"
)


class Again(Protocol):
    """A micro-batch that can be taken again as a whole step."""

    @property
    def inputs(self) -> Any:
        """Return the inputs of ``compute_loss``; None if they were not seen."""

    def take(self, *, counted: bool = True, inputs: Any = None) -> tuple[float, float | None]:
        """Return what ``training_step`` returns, and the item count.

        Args:
            counted: whether the Trainer gives its item count.
            inputs: another batch in its place, with the same random numbers.
        """


@dataclass
class Own:
    """Own losses and own gradients of the first step's micro-batches.

    Attributes:
        losses: what each logs as a whole step, a mean over processes.
        uncounted: the same where the Trainer gives no item count; empty where it gives none anyway.
        items: the item count of each, as the Trainer counts; None where it counts none.
        weights: the step's accumulated gradient as a sum of the own gradients, by least squares;
            NaN for a micro-batch whose own gradient is zero.
        errors: standard error of each weight, from what the sum leaves unexplained.
        residual: norm of what is unexplained, relative to the step's gradient.
        condition: condition number of the own gradients scaled to equal norms; above a few
            thousand the weights cannot be told apart, only their sum.
        norms: of the own gradients, over the sample.
        norm: of the step's accumulated gradient, over the sample.
        eps: unit in the last place of the coarsest dtype that the gradients went through.
        seconds: of asking all of them.
        reason: why they were not asked; empty if they were.
    """

    losses: list[float] = field(default_factory=list)
    uncounted: list[float] = field(default_factory=list)
    items: list[float | None] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    residual: float = math.nan
    condition: float = math.nan
    norms: list[float] = field(default_factory=list)
    norm: float = math.nan
    eps: float = math.nan
    seconds: float = math.nan
    reason: str = ""

    @property
    def total(self) -> float:
        """The sum of the weights: 1 if the step took a mean, whichever."""
        return sum(weight for weight in self.weights if not math.isnan(weight))

    @property
    def expected(self) -> float:
        """The mean of the own losses that the step's gradient is the gradient of.

        Where the weights cannot be told apart every micro-batch counts the same.
        """
        known = [
            (weight, loss)
            for weight, loss in zip(self.weights, self.losses, strict=True)
            if not math.isnan(weight)
        ]
        size = sum(weight for weight, _ in known)
        if len(known) < len(self.losses) or not size > 0 or not self.tells_apart:
            return sum(self.losses) / len(self.losses)
        return sum(weight * loss for weight, loss in known) / size

    @property
    def by_count(self) -> float | None:
        """Return the factor of each own loss over the one without an item count, if it is one.

        NaN where a loss is none.
        """
        if not self.uncounted:
            return None
        ratios = [
            counted / without
            for counted, without in zip(self.losses, self.uncounted, strict=False)
            if without
        ]
        if not all(map(math.isfinite, ratios)):
            return math.nan
        # Nearer than two numbers of processes are to each other, with room for bfloat16.
        if not ratios or max(ratios) - min(ratios) > 1e-3 * abs(max(ratios)):
            return None
        return sum(ratios) / len(ratios)

    def times_processes(self, processes: int) -> float:
        """Return the number of processes where an item count multiplies own losses by it, else 1.

        The Trainer multiplies for losses that are divided by the count, and own gradients are then
        as much too long as the losses are too large.
        """
        if processes == 1 or (ratio := self.by_count) is None:
            return 1.0
        if math.isnan(ratio):  # what it multiplies is not known, and no mean passes
            return ratio
        return float(processes) if math.isclose(ratio, processes, rel_tol=1e-3) else 1.0

    @property
    def is_another(self) -> bool:
        """Return whether the step's gradient is no mean of the own ones, beyond a thousandth.

        That decides whether the first micro-batch is asked once more, and nothing else.
        """
        return not (abs(self.total - 1) <= 1e-3 and self.residual <= 1e-3)

    def differs(self, again: Tensor, gradient: Tensor) -> bool:
        """Return whether the first micro-batch, asked once more, is another than it was.

        Args:
            again: its loss, and a sample of its gradient, of the second time.
            gradient: the same sample of the first time.
        """
        allowed = math.sqrt(self.eps)  # half of the digits, as a difference quotient has them
        moved = float((again[1:] - gradient).norm())
        far = abs(float(again[0]) - self.losses[0]) > allowed * abs(self.losses[0])
        return far or moved > allowed * float(gradient.norm())

    @property
    def tells_apart(self) -> bool:
        """Return whether the own gradients differ enough for each weight to be known by itself."""
        return self.condition < 1 / math.sqrt(self.eps)


def ask_again(trainer: Any, recording: Recording, objective: Objective) -> Own:
    """Ask every micro-batch of the first step again, between its gradient and the optimizer.

    Gradients, random states and the Trainer's attributes are put back. All processes have to ask.
    What is compiled runs as it is written: each batch of another shape would be compiled anew.
    """
    again = [micro.again for micro in recording.first.micro_steps if micro.again is not None]
    if not again or len(again) < len(recording.first.micro_steps):
        return Own(reason="a micro-batch of the first step was not kept")
    model = trainer.model
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    originals = [p.grad for p in parameters.values() if p.grad is not None]
    kept = to_host(originals)
    # A training_step() of the user's own that writes to weights would write again each time.
    written = [*model.parameters()] if recording.own_code.writing else []
    weights = to_host(written)
    grads = {name: p.grad for name, p in parameters.items()}
    undo = global_random_states()
    state = state_of(model)
    size = max(1, min(ELEMENTS, AT_MOST // max(1, len(parameters) * len(again))))
    own = Own(eps=gradient_unit(model, *_autocast(trainer)))
    recording.asking = True
    try:
        with _one_step(trainer), not_compiled():
            begin = time.perf_counter()
            columns = _each(trainer, again, own, parameters, size)
            solve(own, columns, sampled_of(recording.gradients, parameters, size))
            own.seconds = time.perf_counter() - begin

            def loss_and_gradient() -> Tensor:
                _zero(parameters)
                loss, _ = again[0].take()
                return _and(loss, sampled(parameters, size))

            if trainer.args.world_size == 1:
                without = {n: p for n, p in parameters.items() if grads[n] is None}
                recording.unused = unused_parameters(without, loss_and_gradient)
                if own.is_another:
                    before = hashes(model.parameters())
                    differs = own.differs(loss_and_gradient(), columns[0])
                    # A step that writes to weights is another each time, and no other one's fault.
                    if differs and hashes(model.parameters()) == before:
                        return Own(reason=UNSEEDED)

            def gradient(inputs: dict[str, Any]) -> Tensor:
                _zero(parameters)
                again[0].take(inputs=inputs)
                return sampled(parameters, size)

            recording.rearranged = rearrange(trainer, again[0].inputs, gradient, own.eps)
            recording.policy = ask_policy(trainer, again[0].inputs, gradient, own.eps)
            recording.preference = ask_preference(
                trainer, again[0].inputs, recording.first.micro_steps[0].rows
            )
            recording.outputs = ask_outputs(trainer, objective, again[0].inputs)
            recording.guided = _guided(trainer, recording, objective, again[0])

            recording.settings = ask_settings(trainer, loss_and_gradient)
    except Exception as error:
        return Own(reason=f"asked again it raised {type(error).__name__}: {first_line(error)}")
    finally:
        recording.asking = False
        for name, p in parameters.items():
            p.grad = grads[name]
        to_device([*kept, *weights], [*originals, *written])
        state.put_back()
        undo()
    return own


def _each(
    trainer: Any, again: Sequence[Again], own: Own, parameters: dict[str, Any], size: int
) -> list[Tensor]:
    """Note each micro-batch's loss as a step of its own; return samples of their gradients."""
    columns: list[Tensor] = []
    for ask in again:
        for counted in (True, False) if trainer.args.world_size > 1 else (True,):
            _zero(parameters)
            loss, items = ask.take(counted=counted)
            if counted:
                own.losses.append(_mean_over_processes(loss))
                own.items.append(items)
                columns.append(sampled(parameters, size))
            elif items is not None:
                own.uncounted.append(_mean_over_processes(loss))
    return columns


def _guided(trainer: Any, recording: Recording, objective: Objective, again: Again) -> Guided:
    """Ask how the gradient answers to another model that runs beside the trained one."""
    if not recording.beside or objective.by_trainer or trainer.args.world_size > 1:
        return Guided()

    def take(change: Any) -> None:
        again.take(inputs=change(again.inputs))

    try:
        return ask_guided(trainer.model, take, dict(again.inputs))
    except Exception:  # a loss that counts its calls may refuse another one
        return Guided()


def own_gradients(
    parameters: dict[str, Any],
    gradients: dict[str, Tensor],
    ask: Sequence[Callable[[], float]],
    eps: float,
) -> Own:
    """Return own losses, and the step's gradient as a sum of own gradients.

    Args:
        parameters: those that are trained, by name; their gradients are lost.
        gradients: a sample of each one's, as the step had it.
        ask: for each micro-batch a function that computes its loss, sends it backward and returns
            it.
        eps: unit in the last place of the coarsest dtype in use.
    """
    size = max(1, min(ELEMENTS, AT_MOST // max(1, len(parameters) * len(ask))))
    own, columns = Own(eps=eps), []
    for one in ask:
        _zero(parameters)
        own.losses.append(one())
        own.items.append(None)
        columns.append(sampled(parameters, size))
    solve(own, columns, sampled_of(gradients, parameters, size))
    return own


def loss_and_gradient(parameters: dict[str, Any], ask: Callable[[], float]) -> Tensor:
    """Return the loss that a function sends backward and returns, and a sample of the gradient."""
    _zero(parameters)
    loss = ask()
    return _and(loss, sampled(parameters, ELEMENTS))


def _and(loss: float, gradient: Tensor) -> Tensor:
    import torch

    return torch.cat([torch.tensor([loss]), gradient]).nan_to_num()


def _mean_over_processes(loss: float) -> float:
    losses = all_gather(loss)
    return sum(losses) / len(losses)


@contextlib.contextmanager
def _one_step(trainer: Any) -> Iterator[None]:
    """Make every micro-batch a whole step: nothing is accumulated, and nothing stays changed."""
    with restored([trainer, trainer.args, trainer.state, trainer.control]):
        trainer.args.gradient_accumulation_steps = 1
        trainer.current_gradient_accumulation_steps = 1
        yield


def _zero(parameters: dict[str, Any]) -> None:
    for p in parameters.values():
        p.grad = None


def _autocast(trainer: Any) -> list[Any]:
    import torch

    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return [mixed[name] for name in [trainer.accelerator.mixed_precision] if name in mixed]


def solve(own: Own, columns: Sequence[Tensor], step: Tensor) -> None:
    """Write the step's gradient as a sum of the own gradients: weights, errors, residual."""
    import torch

    own.norm = float(step.double().norm())
    own.norms = [float(column.double().norm()) for column in columns]
    own.weights = [math.nan] * len(columns)
    own.errors = [math.nan] * len(columns)
    used = [k for k, norm in enumerate(own.norms) if norm > 0 and math.isfinite(norm)]
    if not used or not (own.norm > 0 and math.isfinite(own.norm)):
        return
    # Columns of one length: the condition number then is of their directions alone.
    matrix = torch.stack([columns[k].double() / own.norms[k] for k in used], dim=1)
    gram = matrix.T @ matrix
    inverse = torch.linalg.pinv(gram, hermitian=True, rcond=1e-10)
    solution = inverse @ (matrix.T @ step.double())
    left = step.double() - matrix @ solution
    own.residual = float(left.norm()) / own.norm
    values = torch.linalg.eigvalsh(gram)
    own.condition = math.sqrt(float(values[-1] / values[0].clamp(min=1e-300)))
    spread = float(left.norm()) / math.sqrt(max(1, len(step) - len(used)))
    for place, k in enumerate(used):
        own.weights[k] = float(solution[place]) / own.norms[k]
        own.errors[k] = spread * math.sqrt(float(inverse[place, place])) / own.norms[k]
