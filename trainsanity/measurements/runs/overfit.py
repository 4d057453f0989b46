"""A copy of the run that is given one micro-batch again and again."""

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
from trainsanity.measurements.batches.batch import Batch, MicroBatch, quiet
from trainsanity.measurements.model.head import find_head, watched
from trainsanity.measurements.model.items import items_of
from trainsanity.measurements.step.record_trainer import alone
from trainsanity.objectives.base import MULTI_LABEL, REGRESSION, Objective
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline

STRIDE = 10
"""Steps in which the loss would come down to zero if it fell as steeply as it does at first."""

STEPS = 6 * STRIDE
"""Steps that are taken at the most.  Where the loss falls by a tenth of what is left each time,
e^-6 of it is left then."""

FASTER, SLOWER = 1.2, 0.7
"""What the rate is multiplied by after a step that lowered the loss, and after one that did not
(the "bold driver" of Battiti, 1989): the first rate is right to first order and at first only.
Noise that makes every other step rise, as dropout does near the end, slows it by 8 % a step."""


@dataclass
class Overfit:
    """What became of the loss on one batch.

    Attributes:
        constant: the loss of the best answer that is the same for every item: the entropy of the
            batch's labels, or the variance of its targets.
        items, counts: how many of what.
        optimizer: its class.
        rate: of the first step; the next ones are larger or smaller as the loss falls or rises.
        losses: the mean reference loss before each step.
    """

    constant: float
    items: int
    counts: str
    optimizer: str = ""
    rate: float = float("nan")
    losses: list[float] = field(default_factory=list)

    @property
    def target(self) -> float:
        """Halfway between the best constant answer and knowing every item by heart, which is 0."""
        return self.constant / 2

    @property
    def best(self) -> float:
        """The lowest loss; infinite if there is no number."""
        return min((loss for loss in self.losses if not math.isnan(loss)), default=math.inf)


@measurement(Cost.RUN)
def overfit(pipeline: Pipeline, batch: Batch) -> Overfit:
    """Train a copy on one micro-batch, at a rate computed from its own gradient.

    Raises:
        Skip: there is no Trainer, no reference loss, or a constant answer learns the batch.
    """
    if pipeline.trainer is None:
        raise Skip("a loop of one's own sets its learning rate itself")
    if not objective_of(pipeline).known:
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    if any("labels" not in micro.inputs for micro in batch):
        raise Skip("the batch has no labels")
    refuse_sharded(pipeline)
    task = dataclasses.replace(objective_of(pipeline), label_smoothing=0.0)
    _, head = find_head(pipeline)
    # All processes learn one batch: when it is learnt, all of them are to stop.
    kept, seen = on_rank_zero(lambda: _chosen(task, batch, head.in_features))
    _train(pipeline, task, kept, seen)
    return seen


def _chosen(task: Objective, batch: Batch, width: int) -> tuple[list[dict[str, Any]], Overfit]:
    """The first micro-batch that no constant answer learns; all of them if there is none."""
    import torch

    micros = [_narrowed(task, micro, width) for micro in batch]
    for some in (*([micro] for micro in micros), micros):
        targets = torch.cat([task.targets(inputs["labels"]).cpu() for inputs in some])
        constant = constant_loss(task, targets)
        if constant > 0:
            return some, Overfit(constant, len(targets), task.item_word)
    raise Skip("a constant answer learns the batch: all of its items have the same target")


def _narrowed(task: Objective, micro: MicroBatch, width: int) -> dict[str, Any]:
    """Of tokens no more than the head has inputs: so many vectors a linear head can tell apart."""
    inputs = {k: v.cpu() if hasattr(v, "cpu") else v for k, v in micro.inputs.items()}
    if task.item_word == "tokens":
        labels = inputs["labels"].clone()
        labels[:, 1 + width // len(labels) :] = -100
        inputs["labels"] = labels
    return inputs


def constant_loss(task: Objective, targets: Tensor) -> float:
    """The mean loss of the best answer that does not look at its input.

    The entropy of the labels' frequencies; for several labels the mean of their binary entropies;
    for numbers their variance.
    """
    import torch

    if task.name == REGRESSION:
        return float(targets.double().var(0, unbiased=False).mean())
    if task.name == MULTI_LABEL:
        p = targets.double().mean(0)
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).mean())
    p = torch.unique(targets, return_counts=True)[1].double() / len(targets)
    return float(torch.special.entr(p).sum())


def _train(pipeline: Pipeline, task: Objective, kept: list[dict[str, Any]], seen: Overfit) -> None:
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
        # The rate is computed from the gradient as it is, and clipped it is another.
        args.max_grad_norm = 0.0
        args.dataloader_num_workers = 0
        args.dataloader_prefetch_factor = None
        args.dataloader_persistent_workers = False
        said = _watch(trainer, task, kept, watch, seen)
        alone(trainer, folder, _callback(seen, said))
        try:
            trainer.train()
        finally:
            pipeline.model.zero_grad()


def _watch(
    trainer: Any, task: Objective, kept: list[dict[str, Any]], watch: Any, seen: Overfit
) -> dict[str, float]:
    """Feed the batch, and note reference losses; returns the Trainer's own loss as it goes."""
    import torch

    get_batch_samples, training_step = trainer.get_batch_samples, trainer.training_step
    parts: list[Tensor] = []
    said: dict[str, float] = {"loss": 0.0}

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
        said["loss"] += float(loss)
        if len(parts) == len(kept):
            seen.losses.append(_together(float(torch.cat(parts).mean())))
            parts.clear()
        return loss

    trainer.get_batch_samples, trainer.training_step = feeding, watching
    return said


def _together(loss: float) -> float:
    """The mean over all processes: dropout may fall otherwise in each, and one rate is set."""
    losses = all_gather(loss)
    return sum(losses) / len(losses)


def _callback(seen: Overfit, said: dict[str, float]) -> Any:
    from transformers import TrainerCallback

    rate = math.nan

    class Conductor(TrainerCallback):
        """Sets the rate before each step, and stops when the batch is learnt."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal rate
            optimizer = kwargs["optimizer"]
            inner = getattr(optimizer, "optimizer", optimizer)
            shares = _shares(inner)
            if math.isnan(rate):
                seen.optimizer = type(inner).__name__
                # Both by the Trainer's own loss: were it scaled, the scale would cancel.
                rate = seen.rate = _together(said["loss"]) / (STRIDE * steepness(inner, shares))
            elif len(seen.losses) > 1:
                rate *= FASTER if seen.losses[-1] < seen.losses[-2] else SLOWER
            said["loss"] = 0.0
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
    """The groups' rates, as parts of the highest."""
    rates = [float(group.get("initial_lr") or group["lr"] or 0.0) for group in inner.param_groups]
    highest = max(rates, default=0.0)
    return [rate / highest if highest else 1.0 for rate in rates]


def steepness(inner: Any, shares: list[float]) -> float:
    """How much the loss falls per unit of the rate, to first order: the gradient times the step.

    The optimizer steps once at a rate of 1, far above the rounding of any dtype, and back.
    """
    import torch

    tensors = [p for group in inner.param_groups for p in group["params"] if p.grad is not None]
    before = [p.detach().clone() for p in tensors]
    for group, share in zip(inner.param_groups, shares, strict=True):
        group["lr"] = share
    inner.step()
    fall = 0.0
    with torch.no_grad():
        for parameter, old in zip(tensors, before, strict=True):
            fall += float((parameter.grad.float() * (old.float() - parameter.float())).sum())
            parameter.copy_(old)
    return abs(fall) or math.nan
