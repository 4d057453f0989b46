"""The first optimizer steps of a custom training loop, read from outside."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import objective_of
from trainsanity.errors import UsageError
from trainsanity.isolation.collectives import all_gather
from trainsanity.isolation.random_states import seeds_seen, torch_states
from trainsanity.isolation.snapshot import preserved, snapshot_bytes
from trainsanity.measurements.batches.batch import Batch, drawn, quiet
from trainsanity.measurements.model.head import head_or_none, watched
from trainsanity.measurements.step.allocation import allocations_counted
from trainsanity.measurements.step.bounds import logged_loss_rounding
from trainsanity.measurements.step.checkpointing import checkpointed
from trainsanity.measurements.step.driven import driven
from trainsanity.measurements.step.followed import Followed
from trainsanity.measurements.step.loop_gradients import Gradients, settle
from trainsanity.measurements.step.loop_own import (
    ask_loop_again,
    guided_in_loop,
    redrawn_in_loop,
)
from trainsanity.measurements.step.modes import watched_modes
from trainsanity.measurements.step.output_again import fill_items
from trainsanity.measurements.step.outside import outside_watched
from trainsanity.measurements.step.policy_passes import references_of
from trainsanity.measurements.step.pull import pulls_watched
from trainsanity.measurements.step.rearranged import Rearranged
from trainsanity.measurements.step.record_notes import (
    broken,
    gather,
    note_held,
    note_rates,
    note_update,
)
from trainsanity.measurements.step.reference_loss import item_weights
from trainsanity.measurements.step.sampling import sample, total_norm
from trainsanity.measurements.step.steps import (
    MicroStep,
    Recording,
    Step,
    random_state,
    set_random_state,
)
from trainsanity.measurements.step.teachers import teachers_watched
from trainsanity.measurements.step.unused import unused_parameters
from trainsanity.measurements.step.update import frozen_state, note_frozen, trial_steps
from trainsanity.types import Blocked

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


ONE_STEP = "update.one_step_is_taken"
"""The check that tells how often the optimizer steps."""


def record(pipeline: Pipeline, steps: int) -> Recording:
    """Call ``pipeline.train_step`` on the first step's micro-batches, once per optimizer step.

    The gradient is read when the optimizer steps; what was there before a clip is seen by hooks on
    the parameters, after each backward pass.
    """
    import torch

    model, optimizer = pipeline.model, pipeline.optimizer
    name, head = head_or_none(pipeline)
    cuda = pipeline.device.type == "cuda"
    begin = time.perf_counter()
    with (
        preserved(pipeline, weights=True),
        quiet(pipeline),
        watched(model, head) as watch,
    ):
        seen = Recording(head_name=name, snapshot_bytes=snapshot_bytes(pipeline))
        unasked = "a custom training loop's own loss is not seen"
        seen.rearranged = Rearranged(reason=unasked)
        seen.snapshot_seconds = time.perf_counter() - begin
        # The mode is the loop's own affair: whether it calls train() is judged.
        model.zero_grad()
        if cuda:
            torch.cuda.reset_peak_memory_stats(pipeline.device)
        start = time.perf_counter()
        try:
            note_held(pipeline, seen, "as step 1 begins")
            with (
                watched_modes(model, seen),
                pulls_watched(model, seen),
                allocations_counted(model, seen),
                teachers_watched(model, seen, references_of(None, pipeline.train_step).values()),
                outside_watched(model, seen),
                Gradients(model, seen.head_name, optimizer) as gradients,
                _hooked(pipeline, seen, steps, gradients) as states,
            ):
                begun = random_state()
                for batch in drawn(pipeline, steps):
                    _take(pipeline, seen, batch, watch, states)
                    if broken(seen):
                        break
            # Some loops average the weights themselves once the optimizer has stepped.
            note_held(pipeline, seen, f"after step {len(seen.steps)}")
        finally:
            model.zero_grad()
        seen.seconds = time.perf_counter() - start
        seen.next_learning_rate = optimizer.param_groups[0]["lr"]
        seen.next_rates = [group["lr"] for group in optimizer.param_groups]
        if cuda:
            seen.peak_bytes = torch.cuda.max_memory_allocated(pipeline.device)
        begin = time.perf_counter()
    seen.restore_seconds = time.perf_counter() - begin
    fill_items(pipeline, seen)
    settle(seen, gradients, pipeline.args.max_grad_norm, several=bool(pipeline.other_processes))
    if pipeline.other_processes:
        gather(seen)
        for step in seen.steps:
            # Some loops return the loss of their own rows, others what all have gathered.
            losses = all_gather(step.logged["loss"])
            step.logged = {"loss": sum(losses) / len(losses)}
    _note_counts(seen)
    _note_unused(pipeline, seen)
    seen.own = ask_loop_again(pipeline, seen, begun)
    seen.rearranged.redrawn = redrawn_in_loop(pipeline, seen, begun)
    seen.guided = guided_in_loop(pipeline, seen, begun)
    return seen


def _note_unused(pipeline: Pipeline, seen: Recording) -> None:
    """Note which parameters without a gradient have no effect on the first step either.

    The loop is asked again with other values in them: what it returns, and where the weights with
    a gradient go.
    """
    import torch

    without = {p.name for p in seen.update.parameters if p.trainable and not p.has_gradient}
    if pipeline.other_processes is not None or not without:
        return
    named = dict(pipeline.model.named_parameters())
    state = seen.first.micro_steps[0].random_state
    moved = [named[p.name] for p in seen.update.parameters if p.has_gradient]
    assert pipeline.train_step is not None
    step = pipeline.train_step

    def ask() -> Any:
        with preserved(pipeline, weights=True), quiet(pipeline):
            batch = next(drawn(pipeline, 1))
            set_random_state(state)
            pipeline.model.zero_grad()
            loss = step([dict(given.inputs) for given in batch])
            return torch.cat([torch.tensor([float(loss)]), *map(sample, moved)]).nan_to_num()

    # A loop that counts its steps may refuse another first one.
    with contextlib.suppress(Exception):
        seen.unused = unused_parameters({name: named[name] for name in without}, ask)


def _note_counts(seen: Recording) -> None:
    """Note the step's items where the loop logs the mean over them, and not one of means."""
    for step in seen.steps:
        parts = [micro.items for micro in step.micro_steps if micro.items is not None]
        sizes = [len(items.losses) for items in parts]
        if len(parts) < len(step.micro_steps) or not all(sizes) or not step.logged:
            continue
        sums = [float(items.losses.sum()) for items in parts]
        weights = item_weights(step, sizes)
        by_means = sum(w * total for w, total in zip(weights, sums, strict=True))
        allowed, logged = logged_loss_rounding(step.micro_steps), step.logged["loss"]
        # Both may lie within rounding where the micro-batches' counts are nearly alike.
        off = abs(logged - sum(sums) / sum(sizes))
        if off <= allowed and off < abs(logged - by_means):
            for micro in step.micro_steps:
                micro.num_items_in_batch = float(sum(sizes))


def _take(pipeline: Pipeline, seen: Recording, batch: Batch, watch: Any, states: list[Any]) -> None:
    import torch

    step = Step()
    seen.steps.append(step)
    for given in batch:
        micro = MicroStep(size=len(given.rows), rows=given.rows)
        if len(seen.steps) == 1:
            micro.inputs = {
                name: value.detach().clone() if torch.is_tensor(value) else value
                for name, value in given.inputs.items()
            }
        step.micro_steps.append(micro)
    seen.checkpointing = checkpointed(pipeline.model)
    del watch.passes[:], states[:]
    assert pipeline.train_step is not None
    begun = random_state()
    with seeds_seen() as seeds:
        loss = pipeline.train_step([dict(given.inputs) for given in batch])
    seen.seeds.append(seeds)
    if not isinstance(loss, int | float) and not (torch.is_tensor(loss) and loss.numel() == 1):
        raise UsageError(
            f"train_step returned {type(loss).__name__}: return the loss that you would log for "
            "this optimizer step, as a number or a tensor of one element"
        )
    if not step.taken:
        raise Blocked(
            "train_step did not call step() of the optimizer that it was given", by=ONE_STEP
        )
    step.logged = {"loss": float(loss)}
    passes = list(watch.passes) if len(watch.passes) == len(step.micro_steps) else []
    del watch.passes[:]
    for k, (micro, given) in enumerate(zip(step.micro_steps, batch, strict=True)):
        micro.loss = step.logged["loss"]  # a loop returns one loss for the step
        micro.loss_dtype = loss.dtype if torch.is_tensor(loss) else torch.float32
        # A loop that runs the model otherwise is replayed with the step's first random state.
        # One that calls parts of the model alone is not seen to begin.
        micro.random_state = states[k if passes else 0] if states else begun
        labels = given.inputs.get("labels")
        done = passes[k] if passes else None
        if done is not None and labels is not None and objective_of(pipeline).known:
            micro.sort_items(objective_of(pipeline), done, labels)


@contextmanager
def _hooked(
    pipeline: Pipeline, seen: Recording, steps: int, gradients: Gradients
) -> Iterator[list[Any]]:
    """Watch optimizer and parameters; yields the random states at which the model was called."""
    import torch

    model = pipeline.model
    optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)  # accelerate's own
    passes = [0]
    frozen, followed = frozen_state(model), Followed(model)
    states: list[Any] = []
    trying = [False]

    def before(_optimizer: Any, args: Any, kwargs: Any) -> Any:
        closure = kwargs.get("closure") or next(filter(callable, args[1:]), None)
        if trying[0]:
            return None
        if closure is None:
            note()
            return None
        noted: list[bool] = []

        def first_of(*given: Any) -> Any:
            # Gradients exist only once the closure has made them; later calls are of later weights.
            loss = closure(*given)
            if not noted:
                noted.append(True)
                note()
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": first_of}
        return tuple(first_of if one is closure else one for one in args), kwargs

    def note() -> None:
        step = seen.steps[-1]
        if step.taken:
            raise Blocked("train_step called optimizer.step() twice", by=ONE_STEP)
        gradients.note()
        if len(seen.steps) == 1:
            seen.composed = passes[0] > len(step.micro_steps)
        step.norm_after_clip = total_norm(model)
        note_update(seen, model, optimizer)
        step.learning_rate = optimizer.param_groups[0]["lr"]
        note_rates(seen, optimizer)
        seen.driven = driven(optimizer, pipeline.lr_scheduler)

    def after(*_: Any) -> None:
        gradients.stepped()
        if not trying[0]:
            followed.note(model)
        if trying[0] or not (len(seen.steps) >= steps or broken(seen)):
            return
        note_frozen(seen.update, model, frozen, followed)
        trying[0] = True
        trial_steps(seen.update, model, optimizer, None, 0)
        trying[0] = False

    def called(*_: Any) -> None:
        states.append(torch_states())
        passes[0] += torch.is_grad_enabled()

    handles = [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
        model.register_forward_pre_hook(called),
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
