"""Train on one micro-batch again and again."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.isolation.collectives import all_gather, on_rank_zero
from trainsanity.isolation.fsdp import refuse_sharded
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.isolation.workers import disable_workers
from trainsanity.measurements.batches.batch import Batch, MicroBatch, quiet
from trainsanity.measurements.model.head import find_head, watched
from trainsanity.measurements.model.items import items_of
from trainsanity.measurements.step.alone import alone
from trainsanity.objectives.base import MULTI_LABEL, REGRESSION, Objective
from trainsanity.pipeline import learns_prompt
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

STRIDE = 10
"""Steps in which the loss would reach zero if it fell as steeply as at first."""

STEPS = 6 * STRIDE
"""The largest number of steps.  If the loss falls by a tenth of its value each time, e^-6 of it is
left then."""

FASTER, SLOWER = 1.2, 0.7
"""Factors of the rate after a step that lowered the loss, and after one that did not (the "bold
driver" of Battiti, 1989): the first rate is right to first order only.  If noise such as dropout
makes the loss rise at every other step, the rate falls by 8 % a step."""


@dataclass
class Overfit:
    """The course of the loss on one batch.

    Attributes:
        constant: the loss of the best answer that is the same for every item: the entropy of the
            batch's labels, or the variance of its targets.
        items: the number of items.
        counts: what an item is, in the plural.
        optimizer: the class of the optimizer.
        rate: the first step's; later ones are larger or smaller as the loss falls or rises.
        gentle: the rate at which as many steps move the weights by their own length.
        losses: the mean reference loss before each step.
    """

    constant: float
    items: int
    counts: str
    optimizer: str = ""
    rate: float = float("nan")
    losses: list[float] = field(default_factory=list)
    gentle: float = float("nan")

    @property
    def target(self) -> float:
        """Halfway between the loss of the best constant answer and zero."""
        return self.constant / 2

    @property
    def best(self) -> float:
        """The lowest loss; infinite if there is no number."""
        return min((loss for loss in self.losses if not math.isnan(loss)), default=math.inf)


@measurement(Cost.RUN)
def overfit(pipeline: Pipeline, batch: Batch) -> Overfit:
    """Train a copy on one micro-batch, at a rate computed from its own gradient.

    Raises:
        Skip: there is no Trainer, no reference loss, or all items have the same target.
    """
    if pipeline.trainer is None:
        raise Skip("a custom training loop sets its learning rate itself")
    if not objective_of(pipeline).known:
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    if any("labels" not in micro.inputs for micro in batch):
        raise Skip("the batch has no labels")
    if learns_prompt(pipeline.model):
        raise Skip("virtual tokens alone are trained: they tell no items apart by themselves")
    refuse_sharded(pipeline)
    task = dataclasses.replace(objective_of(pipeline), label_smoothing=0.0)
    _, head = find_head(pipeline)
    # All processes train on the same batch, so that all stop at the same step.
    kept, seen = on_rank_zero(lambda: _chosen(task, batch, head.in_features))
    _train(pipeline, task, kept, seen)
    if seen.best < seen.target or not any(all_gather(seen.rate > seen.gentle)):
        return seen
    # Where the loss is flat, as with classes that are scored alike, that rate is beyond all bounds.
    again = dataclasses.replace(seen, losses=[], gentle=math.nan)
    _train(pipeline, task, kept, again, most=seen.gentle)
    return again if again.best < seen.target else seen


def _chosen(task: Objective, batch: Batch, width: int) -> tuple[list[dict[str, Any]], Overfit]:
    """Return the first micro-batch with different targets; all micro-batches if none has."""
    import torch

    micros = [_narrowed(task, micro, width) for micro in batch]
    for some in (*([micro] for micro in micros), micros):
        targets = torch.cat([task.targets(inputs["labels"]).cpu() for inputs in some])
        constant = constant_loss(task, targets)
        if constant > 0:
            return some, Overfit(constant, len(targets), task.item_word)
    raise Skip("a constant answer learns the batch: all of its items have the same target")


def _narrowed(task: Objective, micro: MicroBatch, width: int) -> dict[str, Any]:
    """Return inputs with at most as many counted tokens as the head has inputs.

    A linear head can tell that many vectors apart.
    """
    inputs = {k: v.cpu() if hasattr(v, "cpu") else v for k, v in micro.model_inputs.items()}
    if task.item_word == "tokens":
        labels = inputs["labels"].clone()
        labels[:, 1 + width // len(labels) :] = -100
        inputs["labels"] = labels
    return inputs


def constant_loss(task: Objective, targets: Tensor) -> float:
    """Return the mean loss of the best answer that is the same for every item.

    It is the entropy of the labels' frequencies; for several labels the mean of their binary
    entropies; for numbers their variance.
    """
    import torch

    if task.name == REGRESSION:
        return float(targets.double().var(0, unbiased=False).mean())
    if task.name == MULTI_LABEL:
        p = targets.double().mean(0)
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).mean())
    p = torch.unique(targets, return_counts=True)[1].double() / len(targets)
    return float(torch.special.entr(p).sum())


def _train(
    pipeline: Pipeline,
    task: Objective,
    kept: list[dict[str, Any]],
    seen: Overfit,
    most: float = math.inf,
) -> None:
    """Fill in the course of the loss; the first rate is ``most`` at most."""
    trainer = pipeline.trainer
    _, head = find_head(pipeline)
    with (
        scratch() as folder,
        preserved(pipeline, weights=True),
        quiet(pipeline),
        watched(pipeline.model, head) as watch,
    ):
        pipeline.model.zero_grad()
        args = trainer.args
        args.max_steps, args.gradient_accumulation_steps = STEPS, len(kept)
        # The rate is computed from the unclipped gradient.
        args.max_grad_norm = 0.0
        disable_workers(args)
        own_loss = _watch(trainer, task, kept, watch, seen)
        alone(trainer, folder, _callback(seen, own_loss, most))
        try:
            trainer.train()
        finally:
            pipeline.model.zero_grad()


def _watch(
    trainer: Any, task: Objective, kept: list[dict[str, Any]], watch: Any, seen: Overfit
) -> dict[str, float]:
    """Feed the batch and record reference losses; return the Trainer's own loss as it adds up."""
    import torch

    get_batch_samples, training_step = trainer.get_batch_samples, trainer.training_step
    parts: list[Tensor] = []
    own_loss: dict[str, float] = {"loss": 0.0}

    def feeding(_: Any, count: int, *rest: Any) -> Any:
        again = [
            {k: v.clone() if torch.is_tensor(v) else v for k, v in inputs.items()}
            for inputs in kept[:count]
        ]
        return get_batch_samples(iter(again), count, *rest)

    def watching(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        del watch.passes[:]
        labels = inputs["labels"].detach().clone()
        loss = training_step(model, inputs, *args, **kwargs)
        if len(watch.passes) != 1 or watch.passes[0] is None:
            raise Skip("a training step does not make logits in one pass of the model")
        parts.append(items_of(task, watch.passes[0], labels).losses)
        own_loss["loss"] += float(loss)
        if len(parts) == len(kept):
            seen.losses.append(_mean_over_processes(float(torch.cat(parts).mean())))
            parts.clear()
        return loss

    trainer.get_batch_samples, trainer.training_step = feeding, watching
    return own_loss


def _mean_over_processes(loss: float) -> float:
    """Return the mean over all processes: dropout differs between them, the rate must not."""
    losses = all_gather(loss)
    return sum(losses) / len(losses)


def _callback(seen: Overfit, own_loss: dict[str, float], most: float = math.inf) -> Any:
    from transformers import TrainerCallback

    rate = math.nan

    class Conductor(TrainerCallback):
        """Sets the rate before each step, and stops when the loss is low enough."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal rate
            optimizer = kwargs["optimizer"]
            inner = getattr(optimizer, "optimizer", optimizer)
            shares = _shares(inner)
            if math.isnan(rate):
                seen.optimizer = type(inner).__name__
                # A factor in the Trainer's own loss is in its gradient, too, and cancels.
                mean = _mean_over_processes(own_loss["loss"])
                steep, length = steepness(inner, shares)
                seen.gentle = length / STRIDE
                rate = seen.rate = min(mean / (STRIDE * steep), most)
            elif len(seen.losses) > 1:
                rate *= FASTER if seen.losses[-1] < seen.losses[-2] else SLOWER
            own_loss["loss"] = 0.0
            for group, share in zip(inner.param_groups, shares, strict=True):
                group["lr"] = share * rate

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop = seen.best < seen.target or state.global_step >= STEPS
            control.should_log = control.should_save = control.should_evaluate = False
            return control

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_log = control.should_save = control.should_evaluate = False
            return control

    return Conductor()


def _shares(inner: Any) -> list[float]:
    """Return the groups' rates as shares of the highest."""
    rates = [float(group.get("initial_lr") or group["lr"] or 0.0) for group in inner.param_groups]
    highest = max(rates, default=0.0)
    return [rate / highest if highest else 1.0 for rate in rates]


def steepness(inner: Any, shares: list[float]) -> tuple[float, float]:
    """Return how much the loss falls per unit of the rate, and the rate of a step of full length.

    The first is gradient times step, to first order; at the second the step is as long as all the
    weights together, where first order is no guide any more.  The optimizer steps once at a rate of
    1, far above the rounding of any dtype, and the step is undone.
    """
    import torch

    tensors = [p for group in inner.param_groups for p in group["params"] if p.grad is not None]
    before = [p.detach().clone() for p in tensors]
    for group, share in zip(inner.param_groups, shares, strict=True):
        group["lr"] = share
    inner.step()
    fall, weights, steps = 0.0, 0.0, 0.0
    with torch.no_grad():
        for parameter, old in zip(tensors, before, strict=True):
            step = old.float() - parameter.float()
            fall += float((parameter.grad.float() * step).sum())
            weights += float(old.float().square().sum())
            steps += float(step.square().sum())
            parameter.copy_(old)
    return abs(fall) or math.nan, math.sqrt(weights / steps) if steps else math.nan
