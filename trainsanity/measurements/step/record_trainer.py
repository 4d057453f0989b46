"""The first optimizer steps of a ``transformers.Trainer``, read from outside while it trains."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session, objective_of
from trainsanity.errors import UsageError
from trainsanity.isolation.callbacks import taking_part
from trainsanity.isolation.fsdp import training_copy
from trainsanity.isolation.mesh import a_group
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.random_states import torch_states
from trainsanity.isolation.snapshot import preserved, snapshot_bytes
from trainsanity.isolation.temp_folders import scratch
from trainsanity.isolation.zero import engine_dropped, zero_stage
from trainsanity.measurements.batches.batch import quiet, record_collator
from trainsanity.measurements.batches.whose_loss import refuse_unlabelled
from trainsanity.measurements.model.head import head_or_none, watched
from trainsanity.measurements.step.allocation import allocations_counted
from trainsanity.measurements.step.alone import alone, resumed_as_meant
from trainsanity.measurements.step.asked_again import TrainerAgain
from trainsanity.measurements.step.checkpointing import checkpointed
from trainsanity.measurements.step.driven import driven
from trainsanity.measurements.step.followed import Followed
from trainsanity.measurements.step.hooks import added_hooks, hooks_of, state_of
from trainsanity.measurements.step.later import thawed_later
from trainsanity.measurements.step.modes import watched_modes
from trainsanity.measurements.step.output_again import fill_items
from trainsanity.measurements.step.outside import outside_watched
from trainsanity.measurements.step.own import Own, ask_again
from trainsanity.measurements.step.own_code import OwnCode
from trainsanity.measurements.step.peak import note_loss
from trainsanity.measurements.step.policy_passes import references_of
from trainsanity.measurements.step.pull import pulls_watched
from trainsanity.measurements.step.rearranged import Rearranged
from trainsanity.measurements.step.record_gradients import (
    backward_recorded,
    record_clipping,
    take_gradients,
)
from trainsanity.measurements.step.record_notes import (
    broken,
    gather,
    note_held,
    note_rates,
    note_update,
)
from trainsanity.measurements.step.record_zero import ZeroStep
from trainsanity.measurements.step.reference_loss import note_means
from trainsanity.measurements.step.reward_order import watch_rewards
from trainsanity.measurements.step.rollouts import record_rollouts
from trainsanity.measurements.step.sampling import any_gradient, total_norm
from trainsanity.measurements.step.schedule import curve_of
from trainsanity.measurements.step.steps import MicroStep, Recording, Step
from trainsanity.measurements.step.teachers import teachers_watched
from trainsanity.measurements.step.update import frozen_state, note_frozen, trial_steps

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


QUICK = "--quick takes no step twice"


def record(pipeline: Pipeline, steps: int) -> Recording:
    """Call ``trainer.train()`` and stop it after so many optimizer steps.

    The arguments of the run stay as they are, so that the schedule is the user's, and the user's
    callbacks hear of its steps; saving, evaluation and reporting are off, and ``output_dir`` is a
    temporary folder.
    """
    with training_copy(pipeline) as standing:
        seen = _record(standing, steps, own=standing is pipeline)
    # A step that was begun and never ended, at the end of the data, is none.
    seen.steps = [step for step in seen.steps if step.taken]
    fill_items(pipeline, seen)
    if pipeline.other_processes:
        gather(seen, a_group(pipeline.trainer))
    for step in seen.steps:
        note_means(step, Session.of(pipeline).facts)
    return seen


def _record(pipeline: Pipeline, steps: int, *, own: bool) -> Recording:
    """As :func:`record`, with ``own`` on the pipeline's own model, whose weights are put back."""
    import torch

    trainer, device = pipeline.trainer, pipeline.trainer.args.device
    name, head = head_or_none(pipeline)
    cuda = trainer.args.device.type == "cuda"
    begin = time.perf_counter()
    with (
        scratch() as folder,
        preserved(pipeline, weights=own),
        engine_dropped(pipeline),
        quiet(pipeline),
        watched(pipeline.model, head) as watch,
    ):
        seen = Recording(head_name=name, snapshot_bytes=snapshot_bytes(pipeline))
        present = hooks_of(pipeline.model)
        seen.snapshot_seconds = time.perf_counter() - begin
        pipeline.model.zero_grad()
        collated = record_collator(trainer)
        users = taking_part(trainer)
        output_dir = str(trainer.args.output_dir)
        watch_own = OwnCode(pipeline, seen, users)
        zero = None if zero_stage(trainer) is None else ZeroStep(trainer, seen, note_rates)
        last = _callback(seen, pipeline, steps, watch_own.after, zero=zero, users=users)
        alone(trainer, folder, last, first=watch_own.first(), users=users)
        _record_training_step(
            pipeline, seen, watch, collated=collated, present=present, begins=watch_own.begins
        )
        if zero is None:
            record_clipping(trainer, seen)
        else:
            zero.watch_groups()
        watch_rewards(trainer, lambda order: setattr(seen, "reward_order", order))
        record_rollouts(trainer, lambda made: seen.rollout.update(made if not seen.rollout else {}))
        if cuda:
            # Blocks that earlier measurements left in torch's pool do not fit the run's sizes.
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        try:
            with (
                resumed_as_meant(output_dir, folder),
                watched_modes(pipeline.model, seen),
                pulls_watched(pipeline.model, seen),
                allocations_counted(pipeline.model, seen),
                teachers_watched(pipeline.model, seen, references_of(trainer, None).values()),
                backward_recorded(seen, pipeline.model, trainer.accelerator),
                outside_watched(pipeline.model, seen),
            ):
                trainer.train()
        finally:
            pipeline.model.zero_grad()
        seen.seconds = time.perf_counter() - start
        if cuda:
            seen.peak_bytes = torch.cuda.max_memory_allocated(device)
        begin = time.perf_counter()
    seen.restore_seconds = time.perf_counter() - begin
    if cuda:
        torch.cuda.empty_cache()
    return seen


def _callback(
    seen: Recording,
    pipeline: Pipeline,
    steps: int,
    after: Callable[[str], None],
    *,
    zero: ZeroStep | None,
    users: Sequence[Any],
) -> Any:
    import torch
    from transformers import TrainerCallback

    model = pipeline.model
    frozen: dict[str, Any] = {}
    followed: list[Followed] = []

    def last(state: Any) -> bool:
        planned = min(steps, int(state.max_steps))
        return len(seen.steps) >= planned or broken(seen)

    class Recorder(TrainerCallback):
        """Reads what the loop does, lets it log every step and stops it after the last."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_train_begin")
            frozen.update(frozen_state(model))
            followed.append(Followed(model))
            if zero is not None:
                zero.watch()

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_epoch_begin")

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_step_begin")

        def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_substep_end")

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_pre_optimizer_step")
            step = seen.steps[-1]
            seen.max_steps = state.max_steps
            seen.curve = curve_of(kwargs.get("lr_scheduler"), args, state.max_steps)
            if zero is not None:  # which has taken the step
                return
            if step.norm_before_clip != step.norm_before_clip:  # nothing was clipped
                take_gradients(seen, model)
            if math.isnan(step.norm_after_clip):
                step.norm_after_clip = total_norm(model)
            step.seconds += time.perf_counter()  # reading the norm has waited for the device
            if len(seen.steps) == 1:
                if pipeline.quick:
                    seen.own, seen.rearranged = Own(reason=QUICK), Rearranged(reason=QUICK)
                else:
                    seen.own = ask_again(pipeline.trainer, seen, objective_of(pipeline))
            note_update(seen, model, kwargs["optimizer"])
            step.learning_rate = kwargs["optimizer"].param_groups[0]["lr"]
            note_rates(seen, kwargs["optimizer"])
            seen.driven = driven(kwargs["optimizer"], kwargs.get("lr_scheduler"))

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            after("on_optimizer_step")
            followed[0].note(model)
            if not last(state):
                return
            note_frozen(seen.update, model, frozen, followed[0])
            warmup = args.get_warmup_steps(state.max_steps)
            note_held(pipeline, seen, f"after step {len(seen.steps)}")
            if zero is not None:
                return

            def at_peak() -> None:
                # A warm-up's first rates move next to nothing.
                note_held(pipeline, seen, "after one more at the peak rate")
                note_loss(pipeline.trainer, seen)

            trial_steps(
                seen.update, model, kwargs["optimizer"], seen.curve, warmup, at_peak=at_peak
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            after("on_step_end")
            seen.next_learning_rate = kwargs["optimizer"].param_groups[0]["lr"]
            seen.next_rates = [group["lr"] for group in kwargs["optimizer"].param_groups]
            control.should_log = True
            control.should_save = control.should_evaluate = False
            # A callback of the user's that ends the run ends it here, too.
            control.should_training_stop = control.should_training_stop or last(state)
            if control.should_training_stop:
                seen.update.thawed = thawed_later(pipeline.trainer, users, state, **kwargs)
            if pipeline.device.type == "cuda":
                # The optimizer's state came to lie between freed activations.
                torch.cuda.empty_cache()
            return control

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_save = control.should_evaluate = control.should_log = False
            return control

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if logs and "loss" in logs and not seen.steps[-1].logged:
                # TRL logs None where there is nothing to take a mean of.
                seen.steps[-1].logged = {
                    key: float(value) for key, value in logs.items() if value is not None
                }

    return Recorder()


def _record_training_step(
    pipeline: Pipeline,
    seen: Recording,
    watch: Any,
    *,
    collated: list[Any],
    present: Any,
    begins: Callable[[], None],
) -> None:
    import torch

    trainer, task = pipeline.trainer, objective_of(pipeline)
    training_step = trainer.training_step
    calls = iter(collated)

    def recording(model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        if not seen.steps:
            note_held(pipeline, seen, "as step 1 begins")
            begins()
        if not seen.steps or seen.steps[-1].taken:
            left = any_gradient(trainer.optimizer) if seen.steps else None
            seen.steps.append(Step(left=left))  # the one before has been taken
            seen.steps[-1].seconds = -time.perf_counter()
        items = None if num_items_in_batch is None else float(num_items_in_batch)
        given = inputs
        # GRPO's loader gives rows; what is made of them appears at compute_loss.
        inputs = inputs if isinstance(inputs, Mapping) else {}
        size = next((len(value) for value in inputs.values() if torch.is_tensor(value)), 0)
        micro = MicroStep(items, size)
        rows = next(calls, None)
        if rows is not None and len(rows) == size:
            micro.rows = rows
        elif rows is not None and len(rows) > size > 0:
            micro.packed = rows
        labels, names = inputs.get("labels"), set(inputs)
        labels = labels.detach().clone() if torch.is_tensor(labels) else None
        if len(seen.steps) == 1:
            micro.inputs = {
                name: value.detach().clone() if torch.is_tensor(value) else value
                for name, value in inputs.items()
            }
            micro.random_state = torch_states()
            micro.state = state_of(trainer.model)
            micro.again = TrainerAgain(
                trainer,
                lambda again, items: training_step(model, again, items),
                micro.inputs if isinstance(given, Mapping) else given,
                watch,
                micro.state,
            )
            seen.checkpointing = checkpointed(trainer.model)
            seen.hooks = added_hooks(trainer.model, present)
        seen.steps[-1].micro_steps.append(micro)
        del watch.passes[:]
        # What the user's own code draws or seeds before it calls the model is none of the model's.
        state_of_call = called_with(trainer.model, micro) if len(seen.steps) == 1 else nullcontext()
        try:
            with state_of_call:
                loss = training_step(model, given, num_items_in_batch)
        except Exception as error:
            if watch.lossless and _leaves_the_loss_to_the_model(trainer):
                refuse_unlabelled(trainer, names, micro.rows[0] if micro.rows else names)
                raise UsageError(
                    f"{type(trainer.model).__name__} returned no loss for a batch with "
                    f"{', '.join(sorted(names))}: let its forward return one, or give the Trainer "
                    "a compute_loss_func"
                ) from error
            raise
        micro.loss, micro.loss_dtype = float(loss), loss.dtype
        micro.passes = len(watch.passes)
        seen.composed |= micro.passes > 1 and bool(own_methods(trainer, ("training_step",)))
        done = watch.passes[0] if len(watch.passes) == 1 else None
        if done is not None and labels is not None and task.known:
            micro.sort_items(task, done, labels)
        del watch.passes[:]
        return loss

    trainer.training_step = recording


@contextmanager
def called_with(model: Any, micro: MicroStep) -> Iterator[None]:
    """Note torch's random state as the model is called first, for the call to be repeated."""
    called: list[None] = []

    def note(*_: Any) -> None:
        if not called:
            called.append(None)
            micro.random_state = torch_states()

    handle = model.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _leaves_the_loss_to_the_model(trainer: Any) -> bool:
    from transformers import Trainer

    stock = type(trainer).compute_loss is Trainer.compute_loss
    return stock and trainer.label_smoother is None and trainer.compute_loss_func is None
