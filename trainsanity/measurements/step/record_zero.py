"""What DeepSpeed does within one call, ``accelerator.backward``: gradients, clip, step, rate.

Its engine reduces gradients into flat tensors of its own, and steps as soon as the last backward
pass of a step has ended, before any callback hears of it.  What is recorded is read through
``deepspeed.utils.safe_get_full_*``, which are its documented ways, as the engine is asked to step:
one parameter's at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.zero import engine_of
from trainsanity.maths.norms import norm_of
from trainsanity.measurements.step.own import Own
from trainsanity.measurements.step.rearranged import Rearranged
from trainsanity.measurements.step.sampling import sample
from trainsanity.measurements.step.update import Parameter, Update, can_move, norms_and_biases

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import Recording

NOT_CLIPPED_APART = (
    "DeepSpeed clips inside its own step, on flat tensors: what is left of the gradient is not seen"
)
NOT_AGAIN = "DeepSpeed's backward pass cannot be asked without its step"
NO_TRIAL = (
    "DeepSpeed steps a flat float32 copy of its own, and cannot be asked for a step that is taken "
    "back"
)


@dataclass
class ZeroStep:
    """Reads each step of DeepSpeed's engine.

    Attributes:
        trainer: whose engine it is.
        seen: what is recorded.
        note_rates: notes the rates of an optimizer's groups.
        decay: weight decay of the group that holds a parameter, by id.
    """

    trainer: Any
    seen: Recording
    note_rates: Callable[[Recording, Any], None]
    decay: dict[int, float | None] = field(default_factory=dict)

    def watch_groups(self) -> None:
        """Note the groups of the optimizer before DeepSpeed puts flat tensors in their place."""
        create = self.trainer.create_optimizer

        def noting(*args: Any, **kwargs: Any) -> Any:
            made = create(*args, **kwargs)
            for group in made.param_groups:
                for p in group["params"]:
                    self.decay[id(p)] = group.get("weight_decay", 0.0)
            return made

        self.trainer.create_optimizer = noting

    def watch(self) -> None:
        """Read what the engine is about to do, and what it did, at each of its steps."""
        engine = engine_of(self.trainer)
        step = engine.step

        def recording(*args: Any, **kwargs: Any) -> Any:
            if not engine.is_gradient_accumulation_boundary():
                return step(*args, **kwargs)
            before = self._before(engine)
            self.note_rates(self.seen, engine.optimizer)
            done = step(*args, **kwargs)
            self._after(before)
            return done

        engine.step = recording

    def _before(self, engine: Any) -> dict[str, Tensor]:
        """Read gradients and masters, one parameter at a time; all processes do, in one order."""
        import torch
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

        model, seen, step = self.trainer.model, self.seen, self.seen.steps[-1]
        earlier = {p.name: p for p in seen.update.parameters}
        small, inner = norms_and_biases(model), _innermost(engine.optimizer)
        update = Update(optimizer=type(inner).__name__, no_trial=NO_TRIAL)
        scaled = float(getattr(engine.optimizer, "loss_scale", 1.0))  # in float16, until it steps
        squares, masters = [], {}
        for name, p in model.named_parameters():
            gradient = safe_get_full_grad(p) if p.requires_grad else None
            if gradient is not None and scaled != 1:
                gradient = gradient / scaled
            size = norm_of(gradient) if gradient is not None else None
            before = earlier.get(name)
            one = Parameter(
                name=name,
                dtype=p.dtype,
                trainable=p.requires_grad,
                held=id(p) in self.decay if self.decay else p.requires_grad,
                weight_decay=self.decay.get(id(p)),
                is_norm_or_bias=name in small,
                has_gradient=gradient is not None or bool(before and before.has_gradient),
                finite=(size is None or bool(size.isfinite())) and (not before or before.finite),
                elements=getattr(p, "ds_numel", p.numel()),
            )
            update.parameters.append(one)
            if gradient is None or size is None:
                continue
            squares.append(size.float() ** 2)
            one.largest = float(torch.linalg.vector_norm(gradient, math.inf))
            some = sample(gradient)
            if len(seen.steps) == 1:
                seen.gradients[name] = some
            if seen.head_name and name == f"{seen.head_name}.weight":
                step.head_gradient = gradient.detach().cpu().clone()
            masters[name] = sample(safe_get_full_fp32_param(p))
            one.with_gradient = int(torch.count_nonzero(some))
            rate = max(group["lr"] for group in engine.optimizer.param_groups)
            one.can_move = int(((some != 0) & can_move(masters[name], rate)).sum())
        step.learning_rate = engine.optimizer.param_groups[0]["lr"]
        step.norm_before_clip = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        seen.update, seen.not_clipped_apart = update, NOT_CLIPPED_APART
        seen.own, seen.rearranged = Own(reason=NOT_AGAIN), Rearranged(reason=NOT_AGAIN)
        return masters

    def _after(self, before: dict[str, Tensor]) -> None:
        """Count the elements that moved, of the sample that :meth:`_before` took."""
        from deepspeed.utils import safe_get_full_fp32_param

        parameters = dict(self.trainer.model.named_parameters())
        for one in self.seen.update.parameters:
            if one.name in before:
                now = sample(safe_get_full_fp32_param(parameters[one.name]))
                one.moved = int(((now != before[one.name]) & now.isfinite()).sum())


def _innermost(optimizer: Any) -> Any:
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    return optimizer
