"""The Trainer's own ``evaluate()``, on rows that it has just trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.engine.store import measurement
from trainsanity.fields import logits_of
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.fsdp import fsdp, training_copy
from trainsanity.isolation.overrides import own_evaluation
from trainsanity.isolation.snapshot import preserved
from trainsanity.isolation.temp_folders import scratch
from trainsanity.isolation.zero import engine_dropped, zero_stage
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens
from trainsanity.measurements.model.forward import outputs_without, predicting
from trainsanity.measurements.model.head import Pooled, find_head, watched
from trainsanity.measurements.model.items import items_of
from trainsanity.measurements.step.alone import as_training_begins
from trainsanity.measurements.step.steps import MicroStep, Recording
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

ROWS = 20
"""Rows of the first step that are evaluated: a few of the default batches of 8, the last of them
smaller than the others."""


@dataclass(frozen=True)
class Evaluation:
    """Loss that ``evaluate()`` returned for some rows.

    Attributes:
        loss: its ``eval_loss``.
        batches: what each batch's loss counts; those of all processes.
        weights: how often each batch's loss is in the mean: the rows that the loader gave it, which
            are others than its own where the collator packs them, or cuts one into several.
        rows: how many rows were evaluated, over all processes.
        training: names of modules that were in training mode while the model ran.
        uncounted: items of each row that the loss sums over and the Trainer does not count; see
            ``Step.counted``.
        together: processes whose batches count as one: the Trainer divides by the items of all of
            them, and multiplies by their number.
    """

    loss: float
    batches: list[MicroStep]
    weights: list[int]
    rows: int
    training: tuple[str, ...] = ()
    uncounted: int = 0
    together: int = 1

    @property
    def reference(self) -> float:
        """The batches' means over their items, each weighed by its rows, as the Trainer does."""
        each = len(self.batches) // self.together
        weighed = []
        for k in range(each):
            # The batches of one process lie one behind the other.
            same = [micro for micro in self.batches[k::each] if micro.items]
            losses = [micro.items.losses for micro in same if micro.items]
            size = sum(micro.size for micro in same)
            count = sum(map(len, losses)) - self.uncounted * size
            if count:
                mean = sum(float(one.sum()) for one in losses) / count
                weighed.append(sum(self.weights[k::each]) * mean)
        return sum(weighed) / sum(self.weights)


@measurement(Cost.STEP)
def evaluation(pipeline: Pipeline, recording: Recording) -> Evaluation:
    """Evaluate rows of the first step in eval mode, at the weights that they were trained at.

    Raises:
        Skip: there is no Trainer, no reference loss, or the rows were not seen.
    """
    if pipeline.trainer is None:
        raise Skip("a custom training loop has no evaluate()")
    if not objective_of(pipeline).known:
        raise Skip(f"no reference loss for {type(pipeline.model).__name__}")
    rows = _rows(pipeline, recording)
    batches: list[MicroStep] = []
    kept: dict[int, int] = {}
    training: dict[str, None] = {}
    with training_copy(pipeline) as standing:
        metrics = _evaluate(standing, rows, batches, kept, training)
    if any(micro.items is None for micro in batches) or not batches:
        raise Skip("evaluate() did not make logits from labelled rows in one pass of the model")
    if "eval_loss" not in metrics:
        raise Skip("evaluate() returned no eval_loss")
    # A loop of the user's own that gathers nothing weighs, as far as is known, by the model's rows.
    weights = [kept.get(k, micro.size) for k, micro in enumerate(batches)]
    by_process = all_gather((batches, weights))
    together = len(by_process) if _counted_together(pipeline, batches) else 1
    batches = [micro for own, _ in by_process for micro in own]
    weights = [weight for _, own in by_process for weight in own]
    uncounted = int(recording.first.counted is not None)
    return Evaluation(
        loss=float(metrics["eval_loss"]),
        batches=batches,
        weights=weights,
        rows=len(rows),
        training=tuple(training),
        uncounted=uncounted,
        together=together,
    )


def _counted_together(pipeline: Pipeline, batches: list[MicroStep]) -> bool:
    """Return whether the Trainer gave the loss the number of items of all processes."""
    return bool(
        getattr(pipeline.args, "average_tokens_across_devices", False)
        and pipeline.other_processes
        and all(micro.num_items_in_batch is not None for micro in batches)
    )


def _evaluate(
    pipeline: Pipeline,
    rows: list[dict[str, Any]],
    batches: list[MicroStep],
    kept: dict[int, int],
    training: dict[str, None],
) -> dict[str, float]:
    trainer = pipeline.trainer
    _, head = find_head(pipeline)

    def note_training(module: Any, _inputs: Any) -> None:
        training.update({name: None for name, one in module.named_modules() if one.training})

    # A schedule-free optimizer has a mode, which evaluate() switches: weights are others in each.
    # An evaluation of the user's own may do anything; what it leaves changed is for a run to tell.
    # Before train() it raises where model and optimizer are prepared together.
    within = fsdp(pipeline) or zero_stage(trainer) in (0, 1, 2)
    writes = callable(getattr(trainer.optimizer, "eval", None)) or bool(own_evaluation(trainer))
    with (
        scratch() as folder,
        preserved(pipeline, weights=writes or zero_stage(trainer) is not None),
        engine_dropped(pipeline),
        quiet(pipeline),
        watched(pipeline.model, head) as watch,
    ):
        pipeline.model.register_forward_pre_hook(note_training)
        # As inside train(), where evaluation takes place.
        align_special_tokens(pipeline)
        trainer.callback_handler.callbacks = []
        # As inside train(): a compute_loss of the user's own may read it.
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        trainer.compute_metrics = None
        trainer.args.dataloader_drop_last = False  # all of these few rows
        trainer.args.disable_tqdm = True
        _record_prediction_step(pipeline, watch, batches)
        _record_weights(pipeline, batches, kept)
        given = _like(pipeline.train_dataset, rows)

        def evaluate() -> dict[str, float]:
            metrics: dict[str, float] = trainer.evaluate(eval_dataset=given)
            return metrics

        return as_training_begins(trainer, folder, evaluate) if within else evaluate()


def _rows(pipeline: Pipeline, recording: Recording) -> list[dict[str, Any]]:
    """Rows of the first step; the same on every process, and a whole number of batches there."""
    micros = recording.first.micro_steps
    own = [row for micro in micros for row in micro.rows or micro.packed or ()]
    # From all processes in turn; from one process the first rows.
    rows = [row for several in zip(*all_gather(own), strict=False) for row in several][:ROWS]
    if pipeline.other_processes:
        together = pipeline.args.eval_batch_size * pipeline.args.world_size
        rows = rows[: len(rows) // together * together]
    if not rows:
        raise Skip("which rows the first step was made of was not visible")
    return rows


def _like(data: Any, rows: list[dict[str, Any]]) -> Any:
    """The rows as a dataset of the kind that the Trainer was given: some prepare it once more."""
    if not type(data).__module__.startswith("datasets."):
        return rows
    from datasets import Dataset

    # Arrow knows no tensors: a transform or a format made them.
    types = {type(value) for row in rows for value in row.values()}
    tensors = any(one.__module__.partition(".")[0] in ("torch", "numpy") for one in types)
    return rows if tensors else Dataset.from_list(rows)


def _with_logits(pipeline: Pipeline, inputs: dict[str, Any]) -> Pooled | None:
    """Return a batch's pass once more, for logits that a fused loss did not show; None if none."""
    import torch

    model = pipeline.model
    try:
        with torch.no_grad(), pipeline.trainer.compute_loss_context_manager():
            logits = logits_of(outputs_without(model, predicting(model, inputs), inputs))
    except Exception:  # it may need the labels, or more memory than there is
        return None
    return None if logits is None else Pooled(logits, None, None)


def _record_prediction_step(pipeline: Pipeline, watch: Any, batches: list[MicroStep]) -> None:
    import torch

    prediction_step = pipeline.trainer.prediction_step

    def recording(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.get("labels")
        labels = labels.detach().clone() if torch.is_tensor(labels) else None
        size = next((len(value) for value in inputs.values() if torch.is_tensor(value)), 0)
        micro = MicroStep(size=size)
        batches.append(micro)
        del watch.passes[:]
        kept = dict(inputs)
        returned = prediction_step(model, inputs, *args, **kwargs)
        done = watch.passes[0] if len(watch.passes) == 1 else None
        if done is None and len(watch.passes) == 1 and labels is not None:
            done = _with_logits(pipeline, kept)
        if returned[0] is not None and done is not None and labels is not None:
            micro.loss, micro.loss_dtype = float(returned[0]), returned[0].dtype
            micro.items = items_of(objective_of(pipeline), done, labels)
        return returned

    pipeline.trainer.prediction_step = recording
    if pipeline.other_processes is None:
        return
    compute_loss = pipeline.trainer.compute_loss

    def counting(*args: Any, **kwargs: Any) -> Any:
        if batches and (count := kwargs.get("num_items_in_batch")) is not None:
            batches[-1].num_items_in_batch = float(count)
        return compute_loss(*args, **kwargs)

    pipeline.trainer.compute_loss = counting


def _record_weights(pipeline: Pipeline, batches: list[MicroStep], kept: dict[int, int]) -> None:
    """Note how many copies of each batch's loss ``evaluation_loop`` takes into its mean.

    It repeats the loss by the loader's batch size, and what it gathers of the last batch is cut to
    the rows that are left; it is the first that is gathered of a batch.
    """
    import torch

    gather = pipeline.trainer.gather_function
    processes = pipeline.args.world_size if pipeline.other_processes else 1

    def counting(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        gathered = gather(tensor, *args, **kwargs)
        k = len(batches) - 1
        if k >= 0 and k not in kept and torch.is_tensor(tensor) and tensor.dim() == 1:
            repeated = tensor.is_floating_point() and bool((tensor == batches[k].loss).all())
            if repeated:
                kept[k] = len(gathered) // processes
        return gathered

    pipeline.trainer.gather_function = counting
