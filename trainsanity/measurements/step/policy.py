"""Policy and reference, as the loss of the user's own code asks them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.snapshot import preserved
from trainsanity.measurements.batches.batch import drawn, quiet
from trainsanity.measurements.step.passes import Pass, inner, passes_seen
from trainsanity.measurements.step.policy_passes import Asker, Policy, compare, references_of
from trainsanity.measurements.step.preference import Preference
from trainsanity.measurements.step.sampling import sample
from trainsanity.measurements.step.steps import NOT_AGAIN, Recording
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.pipeline import Pipeline


@measurement(Cost.STEP)
def policy(pipeline: Pipeline, recording: Recording) -> Policy:
    """Compare policy and reference on the first micro-batch, at the weights before step 1.

    Raises:
        Skip: the loss could not be asked again.
    """
    if pipeline.trainer is not None:
        if recording.own.reason or recording.policy.reason:
            raise Skip(recording.own.reason or recording.policy.reason)
        return recording.policy
    if pipeline.train_step is None:
        raise Skip(NOT_AGAIN)
    found = _of_a_loop(pipeline)
    if found.reason:
        raise Skip(found.reason)
    return found


@measurement(Cost.STEP)
def preference(recording: Recording) -> Preference:
    """Return the loss of compared answers at weights beside the policy's."""
    return recording.preference


def _of_a_loop(pipeline: Pipeline) -> Policy:
    """Let a custom training loop take its first step several times; each is taken back."""
    import torch

    step = pipeline.train_step
    assert step is not None
    model = inner(pipeline.model)
    named = references_of(None, step)
    with preserved(pipeline), quiet(pipeline):
        first = next(drawn(pipeline, 1)).micro_batches

    def ask(given: Mapping[str, Any], *, seed: int, evaluating: bool) -> tuple[list[Pass], float]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(preserved(pipeline, weights=True))
            stack.enter_context(quiet(pipeline))
            pipeline.model.train()
            if evaluating:
                stack.enter_context(_dropout_off(pipeline.model, *named.values()))
            torch.manual_seed(seed)
            seen = stack.enter_context(passes_seen())
            loss = step([dict(given), *(dict(one.inputs) for one in first[1:])])
            return list(seen), float(loss)

    def gradient(given: Mapping[str, Any]) -> Tensor:
        sampled: list[Tensor] = []

        def read(*_: Any) -> None:
            grads = (p.grad for p in pipeline.model.parameters() if p.grad is not None)
            sampled.extend(sample(grad).float() for grad in grads)

        optimizer = getattr(pipeline.optimizer, "optimizer", pipeline.optimizer)
        handle = optimizer.register_step_pre_hook(read)
        try:
            ask(given, seed=0, evaluating=True)
        finally:
            handle.remove()
        return torch.cat(sampled) if sampled else torch.zeros(1)

    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    found = Policy(eps=max(float(torch.finfo(dtype).eps) for dtype in dtypes))
    compare(found, model, named, first[0].inputs, Asker(ask, gradient), switched=False)
    return found


@contextlib.contextmanager
def _dropout_off(*models: Any) -> Any:
    """A loop calls ``train()`` itself, so dropout is turned off where it is set."""
    import torch

    rates = [
        (module, module.p)
        for model in models
        for module in model.modules()
        if isinstance(module, torch.nn.modules.dropout._DropoutNd)
    ]
    try:
        for module, _ in rates:
            module.p = 0.0
        yield
    finally:
        for module, rate in rates:
            module.p = rate
