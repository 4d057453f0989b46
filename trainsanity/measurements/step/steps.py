"""Optimizer steps as they were recorded, and what their loss should be."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.measurements.model.items import Items, items_of
from trainsanity.measurements.step.driven import Driven
from trainsanity.measurements.step.guided import Guided
from trainsanity.measurements.step.hooks import AddedHook, ModuleState
from trainsanity.measurements.step.loss_calls import Corners
from trainsanity.measurements.step.modes import Modes
from trainsanity.measurements.step.outputs_formula import OutputsFormula
from trainsanity.measurements.step.own import Again, Own
from trainsanity.measurements.step.own_changes import OwnChanges
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.measurements.step.preference import Preference
from trainsanity.measurements.step.pull import ModelCall, Pulls
from trainsanity.measurements.step.rearranged import Rearranged
from trainsanity.measurements.step.reward_order import RewardOrder
from trainsanity.measurements.step.settings import Setting
from trainsanity.measurements.step.teachers import Teacher
from trainsanity.measurements.step.update import Update
from trainsanity.objectives.loss_places import LossCall

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.model.head import Pooled
    from trainsanity.objectives.base import Objective
    from trainsanity.pipeline import Pipeline


NOT_AGAIN = "a script's own training loop cannot be asked again"
"""Why what needs another step of a captured loop is not asked."""


@dataclass
class MicroStep:
    """One forward and backward inside a step.

    Attributes:
        num_items_in_batch: as the Trainer gave it to ``training_step``; None if it gave none.
        size: number of rows, on this process.
        rows: the rows that the collator was given for them; None if another collator made them.
        packed: the same where the collator makes fewer rows of them than it was given.
        inputs: what the model was given, labels included.  First step only, to be asked again.
        random_state: torch's, as the model was called first; see :func:`.torch_states`.  First
            step only.
        state: what the modules held at its start and a forward may change, as spectral norm's
            buffers.  First step only, on its own process.
        items: what the loss counts, with its reference; None if the model's own forward did not
            run exactly once or there were no labels.
        fused: whether its loss was made without logits that could be seen.
        error: what the objective raised in place of the items.
        loss: what ``training_step`` returned and the Trainer adds to the logged loss.
        backward_loss: what the backward pass was started from.
        gradient_norm: norm of this micro-batch's own contribution to the gradient.
        rank: the process that took it.
        again: takes it again as a whole step.  First step only, on its own process.
        passes: how often the model ran in it.
    """

    num_items_in_batch: float | None = None
    size: int = 0
    rows: list[dict[str, Any]] | None = None
    packed: list[dict[str, Any]] | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    random_state: Any = None
    state: ModuleState | None = None
    items: Items | None = None
    fused: bool = False
    error: Exception | None = None
    loss: float = float("nan")
    loss_dtype: Any = None
    backward_loss: float = float("nan")
    gradient_norm: float = float("nan")
    rank: int = 0
    again: Again | None = None
    passes: int = 1

    def sort_items(self, objective: Objective, seen: Pooled, labels: Tensor) -> None:
        """Sort a pass into items.  A plug-in that raises must not end the step that is recorded."""
        import torch

        try:
            self.items = items_of(objective, seen, labels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            self.error = error


@dataclass
class Step:
    """One optimizer step.

    Attributes:
        micro_steps: in order; those of all processes, process by process.
        logged: the log line of this step.
        head_gradient: ``[C, H]`` on the CPU, accumulated over the step, before clipping.
        norm_before_clip, norm_after_clip: total gradient norms, computed from the gradients.
        clip_given: how many tensors torch was given to clip after the last backward pass, and how
            many of them had a gradient; of several clips the one that was given the most. None
            where torch was not asked, or the Trainer asks.
        learning_rate: what the optimizer used (first parameter group).
        rates: the same for each of its groups.
        left: gradients of the step before were still there as its first backward pass began; None
            for a run's first step, which has none before it.
        head_left: the head's were, which is never zeroed if the optimizer does not hold it.
        by_means: the Trainer counts items and the loss does not use the count, so that what is
            logged is a multiple of the mean of the micro-batches' means.
        counted: items that the Trainer counts where it leaves out the first label of each row and
            something predicts that, too: virtual tokens of a prompt, or labels that came shifted.
            The loss is divided by that number. None where it counts what the loss sums over.
        seconds: from its first micro-batch to its whole gradient; NaN where that was not timed.
    """

    micro_steps: list[MicroStep] = field(default_factory=list)
    logged: dict[str, float] = field(default_factory=dict)
    head_gradient: Any = None
    norm_before_clip: float = float("nan")
    norm_after_clip: float = float("nan")
    clip_given: tuple[int, int] | None = None
    learning_rate: float = float("nan")
    rates: list[float] = field(default_factory=list)
    left: bool | None = None
    seconds: float = float("nan")
    head_left: bool = False
    by_means: bool = False
    counted: float | None = None

    @property
    def taken(self) -> bool:
        """Return whether the optimizer took the step, which is when its rate is noted."""
        return not math.isnan(self.learning_rate)

    @property
    def judgeable(self) -> bool:
        """It was logged, and every micro-batch showed its items."""
        return bool(self.logged) and all(micro.items is not None for micro in self.micro_steps)


@dataclass
class Recording:
    """The first optimizer steps, as they were taken and logged.

    Attributes:
        steps: in order.
        head_name: the head's name in ``named_modules()``.
        gradients: of the first step, before clipping: a sample of each trainable parameter's, on
            the CPU; see :func:`sample`.
        next_learning_rate: what the scheduler set for the step after the last.
        next_rates: the same for each parameter group.
        peaks: the rate that each group was built with.
        optimizer: the name of its class.
        beside_groups: options that were set as attributes of one of torch's optimizers, which reads
            its groups alone: the value there, and that of the first group.
        driven: whether the scheduler that is stepped sets its rates; None without a scheduler.
        curve: learning rates of the scheduler in use, by step counted from 0; None if it has none
            that depends on the step alone.
        max_steps: optimizer steps that the Trainer plans; 0 if nobody does.
        update: which parameters the optimizer holds and which move, at the last step.
        checkpointing: the modules whose activations are computed again in the backward pass, and
            the function that each does it by.
        hooks: those that were on the model in the first step and are there at no other time.
        unused: trainable parameters that have no gradient because the step does not use them; None
            where that was not asked.
        held: where several processes train: by moment, for each process a hash of every parameter
            that it holds whole, by name.
        sharded: how many parameters each process holds a part of.
        composed: a custom training loop, or a training_step of the user's own, ran the model more
            often than once for each micro-batch before its first step, so that the gradient may be
            made of more than the loss's.
        clipped_late: the norm that a loop clips to after its optimizer has stepped; None if it
            clips before, or does not.
        not_clipped_apart: why the gradient is not seen after it was clipped; empty if it is.
        not_comparable: why the gradients are not held against those of the loss, as those of some
            scripts' own loops; empty if they are.
        out_of_memory: a second step did not fit, so only the first was recorded.
        peak_bytes: device memory at its highest; None on the CPU.
        seconds: of the steps alone.
        own: the first step's micro-batches, each asked again as a whole step.
        sent: the same of a script whose loss cannot be asked again, by what its one backward pass
            was given; None where that was not seen.
        peak_loss: of the first of them after one step more, at the peak rate; NaN if not asked.
        settings: those of the loss that are not at their defaults.
        rearranged: the first micro-batch, asked in other arrangements of its rows.
        policy: what policy and reference said of the first micro-batch's tokens.
        preference: the loss of compared answers where policy and reference differ.
        outputs: the first micro-batch's loss beside the formula of its passes' outputs.
        reward_order: rewards of the first completions, asked again in another order.
        rollout: the first completions that a policy generated, with what was made of their rewards.
        modes: in which modes the model ran, and what moved in its frozen parts.
        own_code: what the user's own code did to gradients and weights.
        begun_with: parameters that the user's own code wrote to before the first step, each with
            the values that it had there.
        teachers: other models that ran without a gradient while the steps were taken.
        beside: one of them, or a reference, said something of each token.
        guided: how the first step's gradient answers to what that model says.
        pulls: from which positions of the logits the first step's gradient comes.
        allocations: how often an adapter that moves its ranks was told to; None if there is none.
        model_call: what the model was given first; None where it was not called.
        loss_calls: which of torch's loss functions were called, and what they were given.
        corners: boxes that the loss turned from centre and size to corners, or what looks so.
        seeds: those that each step of a custom training loop gave to torch.
        asking: such a question is being asked; its passes are not the run's.
        snapshot_bytes: size in host memory of what is put back afterwards.
        snapshot_seconds, restore_seconds: the time that it took to take it, and to put it back.
    """

    steps: list[Step] = field(default_factory=list)
    head_name: str = ""
    gradients: dict[str, Any] = field(default_factory=dict)
    next_learning_rate: float = float("nan")
    next_rates: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    optimizer: str = ""
    beside_groups: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    driven: Driven | None = None
    curve: dict[int, float] | None = None
    max_steps: int = 0
    update: Update = field(default_factory=Update)
    checkpointing: list[tuple[Any, Any]] = field(default_factory=list)
    hooks: list[AddedHook] = field(default_factory=list)
    unused: Collection[str] | None = None
    held: dict[str, list[dict[str, int]]] = field(default_factory=dict)
    sharded: int = 0
    composed: bool = False
    clipped_late: float | None = None
    not_clipped_apart: str = ""
    not_comparable: str = ""
    out_of_memory: bool = False
    peak_bytes: int | None = None
    seconds: float = 0.0
    snapshot_bytes: int = 0
    snapshot_seconds: float = 0.0
    restore_seconds: float = 0.0
    own: Own = field(default_factory=Own)
    sent: Own | None = None
    peak_loss: float = float("nan")
    asking: bool = False
    settings: list[Setting] = field(default_factory=list)
    rearranged: Rearranged = field(default_factory=Rearranged)
    policy: Policy = field(default_factory=Policy)
    preference: Preference = field(default_factory=Preference)
    outputs: OutputsFormula = field(default_factory=OutputsFormula)
    reward_order: RewardOrder | None = None
    rollout: dict[str, Any] = field(default_factory=dict)
    modes: Modes = field(default_factory=Modes)
    begun_with: list[tuple[Any, Any]] = field(default_factory=list)
    own_code: OwnChanges = field(default_factory=OwnChanges)
    teachers: list[Teacher] = field(default_factory=list)
    beside: bool = False
    guided: Guided = field(default_factory=Guided)
    pulls: Pulls = field(default_factory=Pulls)
    allocations: int | None = None
    model_call: ModelCall | None = None
    loss_calls: list[LossCall] = field(default_factory=list)
    corners: list[Corners] = field(default_factory=list)
    seeds: list[list[int]] = field(default_factory=list)

    @property
    def first(self) -> Step:
        """Step 1, at the weights that the pipeline came with."""
        return self.steps[0]

    def facts(self, pipeline: Pipeline, slope: float = 1.0) -> dict[str, Any]:
        """Return the numbers that a factor in the first step is matched against.

        Args:
            pipeline: the run.
            slope: of the gradient over what it should be.
        """
        facts = dict(Session.of(pipeline).facts)
        ids = self.first.micro_steps[0].inputs.get("input_ids")
        if ids is not None and ids.dim() > 1:
            facts["sequence_length"] = int(ids.shape[1])
        if self.clipped_before(pipeline, slope):
            facts["grad_norm"] = self.first.norm_before_clip / slope
        return facts

    def clipped_before(self, pipeline: Pipeline, slope: float) -> bool:
        """The gradient is too short, and has the norm max_grad_norm before the Trainer clips it."""
        norm, clip = self.first.norm_before_clip, Session.of(pipeline).facts.get("max_grad_norm")
        # By chance a norm lies so near to it once in a thousand times.
        return bool(clip and 0 < slope < 0.999 and math.isclose(norm, clip, rel_tol=1e-3))


def random_state() -> tuple[Any, Any]:
    """Torch's random states, on the CPU and on every GPU in use."""
    import torch

    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda


def set_random_state(state: tuple[Any, Any]) -> None:
    """Restore torch's random states."""
    import torch

    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
