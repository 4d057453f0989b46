"""The first optimizer step of the user's own Trainer, recorded while ``train()`` runs it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..tasks import Task, known
from ..types import Cost, Skip
from .batch import quiet
from .head import find_head, watched
from .items import Items, items_of
from .state import preserved
from .store import measurement
from .update import Update, before_step, frozen_state, trial_step

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import Pipeline


@dataclass
class MicroStep:
    """One forward and backward inside the step.

    Attributes:
        items: what the loss counts, with its reference; None if the model's own forward did not
            run exactly once or there were no labels.
        num_items_in_batch: as the Trainer gave it to ``training_step``; None if it gave none.
        rows: number of rows.
        loss: what ``training_step`` returned and the Trainer adds to the logged loss.
        backward_loss: what the backward pass was started from.
        gradient_norm: norm of this micro-batch's own contribution to the gradient.
    """

    num_items_in_batch: float | None
    rows: int = 0
    items: Items | None = None
    loss: float = float("nan")
    loss_dtype: Any = None
    backward_loss: float = float("nan")
    gradient_norm: float = float("nan")


@dataclass
class TrainerStep:
    """What one optimizer step did and said.

    Attributes:
        micro_steps: in order.
        logged: the Trainer's first log line that has a loss.
        head_gradient: ``[C, H]`` on the CPU, accumulated over the step, before clipping.
        head_name: the head's name in ``named_modules()``.
        norm_before_clip, norm_after_clip: total gradient norms, computed from the gradients.
        learning_rate: what the optimizer step used (first parameter group).
        next_learning_rate: what the scheduler set for the following step.
        max_steps: optimizer steps that the Trainer plans.
        special_tokens: ``(before train(), inside it)``: the config's ids by name.
        update: whom the optimizer holds and who moves.
        peak_bytes: device memory at its highest during the step; None on the CPU.
    """

    micro_steps: list[MicroStep] = field(default_factory=list)
    logged: dict[str, float] = field(default_factory=dict)
    head_gradient: Any = None
    head_name: str = ""
    norm_before_clip: float = float("nan")
    norm_after_clip: float = float("nan")
    learning_rate: float = float("nan")
    next_learning_rate: float = float("nan")
    max_steps: int = 0
    update: Update = field(default_factory=Update)
    peak_bytes: int | None = None
    seconds: float = 0.0


@measurement(Cost.STEP)
def trainer_step(pipeline: Pipeline) -> TrainerStep:
    """Call ``trainer.train()``, stop it after one optimizer step, put everything back.

    The arguments of the run stay as they are, so that the schedule is the user's; saving,
    evaluation, reporting and the user's callbacks are off, and ``output_dir`` is a temporary
    folder.
    """
    import torch

    trainer = pipeline.trainer
    if trainer is None:
        raise Skip("this pipeline has no Trainer whose step could be recorded")
    task = pipeline.task
    name, head = find_head(pipeline)
    cuda = pipeline.device.type == "cuda"
    with (
        tempfile.TemporaryDirectory(prefix="trainsanity-") as folder,
        preserved(pipeline, weights=True),
        quiet(pipeline),
        watched(pipeline.model, head) as watch,
    ):
        pipeline.model.zero_grad()
        record = TrainerStep(head_name=name)
        _alone(trainer, folder, _callback(record, pipeline))
        _record_training_step(trainer, record, watch, task)
        remove = _record_backward(trainer, record)
        _record_clipping(trainer, record, head)
        if cuda:
            torch.cuda.reset_peak_memory_stats(pipeline.device)
        start = time.perf_counter()
        try:
            trainer.train()
        finally:
            remove()
            pipeline.model.zero_grad()
        record.seconds = time.perf_counter() - start
        if cuda:
            record.peak_bytes = torch.cuda.max_memory_allocated(pipeline.device)
    if cuda:
        torch.cuda.empty_cache()
    return record


@dataclass(frozen=True)
class Reference:
    """What the step's loss should be, from its items.

    Attributes:
        parts: the items of each micro-batch.
        weights: what one item of each micro-batch counts in the mean.
        mean: the loss.
        words: how the mean is taken.
    """

    parts: list[Items]
    weights: list[float]
    mean: float
    words: str

    @property
    def count(self) -> int:
        """Items in the step."""
        return sum(len(items.losses) for items in self.parts)


def reference(pipeline: Pipeline, step: TrainerStep) -> Reference:
    """The mean over all items of the step, each counting the same.

    Where the Trainer counts no items (``num_items_in_batch`` is None) it can only average the
    micro-batches' means.  With micro-batches of unequal size that is another mean, by design; it
    is the reference then, and named.

    Raises:
        Skip: the task has no reference loss, or a micro-batch did not show its items.
    """
    if not known(pipeline.task):
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    if pipeline.args.world_size > 1:
        raise Skip("with several processes one of them sees a share of the step only")
    parts = [micro.items for micro in step.micro_steps if micro.items is not None]
    if len(parts) < len(step.micro_steps) or not parts:
        raise Skip("a micro-batch did not make logits from labelled rows in one pass of the model")
    sizes = [len(items.losses) for items in parts]
    if not all(sizes):
        raise Skip("a micro-batch of the step has nothing that the loss counts")
    uncounted = all(micro.num_items_in_batch is None for micro in step.micro_steps)
    if uncounted and len(set(sizes)) > 1:
        weights = [1 / (len(parts) * size) for size in sizes]
        words = f"mean of {len(parts)} micro-batch means over the {pipeline.task.counts}"
    else:
        weights = [1 / sum(sizes)] * len(parts)
        words = f"mean over the {sum(sizes)} {pipeline.task.counts}"
    total = sum(w * float(p.losses.sum()) for w, p in zip(weights, parts, strict=True))
    return Reference(parts, weights, total, words)


def _alone(trainer: Any, folder: str, callback: Any) -> None:
    """Nothing but the training loop itself: no files, no reports, no evaluation."""
    trainer.callback_handler.callbacks = [callback]
    quiet_arguments = {
        "output_dir": folder,
        "logging_dir": folder,
        "push_to_hub": False,
        "eval_on_start": False,
        "load_best_model_at_end": False,
        "disable_tqdm": True,
    }
    for argument, value in quiet_arguments.items():
        if hasattr(trainer.args, argument):
            setattr(trainer.args, argument, value)


def _callback(record: TrainerStep, pipeline: Pipeline) -> Any:
    from transformers import TrainerCallback

    frozen = frozen_state(pipeline.model)

    class Recorder(TrainerCallback):
        """Reads what the loop does, lets it log step 1 and stops it there."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            record.max_steps = state.max_steps
            if record.norm_before_clip != record.norm_before_clip:  # nothing was clipped
                _take_gradients(record, pipeline.model)
            record.norm_after_clip = total_norm(pipeline.model)
            record.update = before_step(pipeline.model, kwargs["optimizer"])
            record.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after = frozen_state(pipeline.model)
            for seen in record.update.parameters:
                seen.changed_frozen = frozen.get(seen.name) != after.get(seen.name)
            trial_step(record.update, pipeline.model, kwargs["optimizer"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            record.next_learning_rate = kwargs["optimizer"].param_groups[0]["lr"]
            control.should_log = True
            control.should_save = control.should_evaluate = False
            control.should_training_stop = True
            return control

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_save = control.should_evaluate = control.should_log = False
            return control

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs and not record.logged:
                record.logged = {key: float(value) for key, value in logs.items()}

    return Recorder()


def _record_training_step(trainer: Any, record: TrainerStep, watch: Any, task: Task) -> None:
    import torch

    training_step = trainer.training_step

    def recording(model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        items = None if num_items_in_batch is None else float(num_items_in_batch)
        labels = inputs.get("labels")
        labels = labels.detach().clone() if torch.is_tensor(labels) else None
        rows = next((len(value) for value in inputs.values() if torch.is_tensor(value)), 0)
        micro = MicroStep(items, rows)
        record.micro_steps.append(micro)
        del watch.passes[:]
        loss = training_step(model, inputs, num_items_in_batch)
        micro.loss, micro.loss_dtype = float(loss), loss.dtype
        seen = watch.passes[0] if len(watch.passes) == 1 else None
        if seen is not None and labels is not None and known(task):
            micro.items = items_of(task, seen, labels)
        del watch.passes[:]
        return loss

    trainer.training_step = recording


def _record_backward(trainer: Any, record: TrainerStep) -> Callable[[], None]:
    """Norms of what each backward pass adds; leaf hooks see it before it is accumulated."""
    import torch

    backward = trainer.accelerator.backward
    squares: list[Tensor] = []
    inside = [False]

    def add(gradient: Tensor) -> None:
        if inside[0]:
            squares.append(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32) ** 2)

    def recording(loss: Tensor, **kwargs: Any) -> None:
        micro = record.micro_steps[-1]
        micro.backward_loss = float(loss.detach())
        inside[0] = True
        try:
            backward(loss, **kwargs)
        finally:
            inside[0] = False
        if squares:
            micro.gradient_norm = float(torch.stack(squares).sum().sqrt())
        squares.clear()

    trainer.accelerator.backward = recording
    handles = [p.register_hook(add) for p in trainer.model.parameters() if p.requires_grad]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


def _record_clipping(trainer: Any, record: TrainerStep, head: Any) -> None:
    clip = trainer.accelerator.clip_grad_norm_

    def recording(*args: Any, **kwargs: Any) -> Any:
        _take_gradients(record, trainer.model)
        return clip(*args, **kwargs)

    trainer.accelerator.clip_grad_norm_ = recording


def _take_gradients(record: TrainerStep, model: Any) -> None:
    gradient = model.get_submodule(record.head_name).weight.grad
    if gradient is not None:
        record.head_gradient = gradient.detach().cpu().clone()
    record.norm_before_clip = total_norm(model)


def total_norm(model: Any) -> float:
    """The 2-norm over all gradients, each reduced in float32."""
    import torch

    norms = [
        torch.linalg.vector_norm(p.grad, dtype=torch.float32)
        for p in model.parameters()
        if p.grad is not None
    ]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
