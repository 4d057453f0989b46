"""The first optimizer steps of a script's own training loop, as they were seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.objectives.loss_places import LossCall


@dataclass
class Formula:
    """A loss of ``torch.nn.functional`` that the script computed from an output of its model.

    Attributes:
        function: as torch has it.
        output: the key or the number under which the model returned its input; None for a model
            that returns one tensor.
        shape: of that input; the output was reshaped to it.
        target: what it was compared with, a copy.
        rest: the other arguments by name.
    """

    function: Any
    output: Any
    shape: tuple[int, ...]
    target: Tensor
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The function's name."""
        return str(getattr(self.function, "__name__", self.function))


@dataclass
class Call:
    """One call of the model with gradients.

    Attributes:
        module: what was called: the model, or a wrapper of it.
        args, kwargs: copies of what it was given.
        random_state: torch's, as it began; see :func:`~trainsanity.isolation.random_states`.
        buffers: buffers of the model and their values, as it began.
        autocast: device type, and dtype of the autocast that it ran under; None if it did not.
        loss: the key or the number under which it returned a loss of its own; None if it did not.
    """

    module: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    random_state: Any
    buffers: list[tuple[Any, Any]] = field(default_factory=list)
    autocast: tuple[str, Any] | None = None
    loss: Any = None


@dataclass
class Backward:
    """One backward pass.

    Attributes:
        value: of the loss that it started from, without the factor of a ``GradScaler``; the sum of
            what it started from where that is no single number.
        dtype: of that loss.
        modules: what the script called with gradients on the way to it.
        beside: what it called without gradients since the backward pass before.
        call: the model's call; None if the script called several modules, or none, or did not start
            from a single number.
        model_loss: the value of the loss that the model returned; NaN if it returned none.
        formula: the loss that the script computed from the model's outputs; None if it was none,
            or several.
        formula_loss: its value; NaN if there is none.
        losses: the calls of torch's loss functions before it, outside of modules with parameters.
        scale: a ``GradScaler``'s factor in it; 1 without one.
        norm: of all gradients of what was called, at its end.
        sent: by a parameter's ``id``, a copy on the host of its gradient of what was sent backward;
            empty where that is the loss of one call, which can be asked again.
    """

    value: float
    dtype: Any
    modules: list[Any] = field(default_factory=list)
    beside: list[Any] = field(default_factory=list)
    call: Call | None = None
    model_loss: float = float("nan")
    formula: Formula | None = None
    formula_loss: float = float("nan")
    losses: list[LossCall] = field(default_factory=list)
    scale: float = 1.0
    norm: float = float("nan")
    sent: dict[int, Any] = field(default_factory=dict)


@dataclass
class CapturedStep:
    """One optimizer step.

    Attributes:
        passes: the backward passes since the step before.
        batches: how many batches the training ``DataLoader`` gave since then; 0 without one.
        gradients: by parameter, copies on the host: as a clip of torch's found them, or else as
            the optimizer did; a parameter without one is missing.
        clip: the norm that torch was asked to clip to; None if it was not.
        clip_given: how many tensors torch was given to clip, and how many had a gradient.
        clipped_late: the norm that torch was asked to clip to after the step before, when its
            gradients had been used; None if it was not.
        norm_after: of the gradients that the optimizer found.
        rates: of each parameter group.
        left: gradients of the step before were still there as its first backward pass began.
        weights: by parameter, copies on the host: as the step began; empty for the first, whose
            weights the pipeline's model has.
    """

    passes: list[Backward]
    batches: int = 0
    gradients: dict[str, Tensor] = field(default_factory=dict)
    clip: float | None = None
    clip_given: tuple[int, int] | None = None
    clipped_late: float | None = None
    norm_after: float = float("nan")
    rates: list[float] = field(default_factory=list)
    left: bool = False
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Captured:
    """What a script's own training loop did.

    Attributes:
        steps: the first ones that are judged, in order.
        before: optimizer steps of this loop before the first one that is judged.
        renewed: optimizers with moments took these and the next steps, a new one each.
        scheduler_calls: how often the scheduler was stepped between the first two; None where
            it was not seen, or is given its position.
        length: of the training ``DataLoader``, in batches; None if it has none.
        epochs: how often the script goes through its loop over batches, as its source tells; None
            where nothing tells.
        stray: a scheduler that was stepped between the first two steps while none of the
            optimizer's own was, of another optimizer of the same parameters, which never steps.
        rows: of one of its batches; None without one, or where it does not say.
        other_models: how many more optimizers the script steps, of other models.
        left_in_eval: the line of the loop after which the model stays in eval mode, as its source
            tells; empty where nothing tells.
    """

    steps: list[CapturedStep] = field(default_factory=list)
    before: int = 0
    renewed: bool = False
    scheduler_calls: int | None = None
    length: int | None = None
    epochs: int | None = None
    stray: Any = None
    rows: int | None = None
    other_models: int = 0
    left_in_eval: str = ""

    @property
    def first(self) -> CapturedStep:
        """Step 1, at the weights that the pipeline has."""
        return self.steps[0]

    @property
    def accumulates(self) -> bool:
        """Whether each backward pass of a step is one batch of the training data.

        Without a data loader it is where all passes of a step are given other tokens: adversaries
        and sharpness-aware steps are given the same again.
        """
        if not any(step.batches for step in self.steps):
            return all(map(_other_tokens, self.steps))
        # Some loaders fetch a batch ahead of the first.
        first, others = self.first, self.steps[1:]
        return (
            bool(others)
            and all(len(step.passes) == step.batches for step in others)
            and first.batches - len(first.passes) in (0, 1)
        )


def _other_tokens(step: CapturedStep) -> bool:
    """Return whether each backward pass of a step is of token ids of its own, of one shape."""
    import torch

    ids: list[Any] = []
    for one in step.passes:
        given = [] if one.call is None else [*one.call.args, *one.call.kwargs.values()]
        found = [x for x in given if torch.is_tensor(x) and x.dtype in (torch.int32, torch.int64)]
        if not found or found[0].dim() < 2:
            return False
        if any(x.shape != found[0].shape or torch.equal(x, found[0]) for x in ids):
            return False
        ids.append(found[0])
    return True
