"""In which direction a policy's first step moves its answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainsanity.checks.loss.advantages_raise import advantages_raise
from trainsanity.measurements.step.pull import Rises
from trainsanity.measurements.step.steps import MicroStep, Recording, Step
from trainsanity.types import Finding, Skip

IDS = torch.arange(8).reshape(1, 8).repeat(6, 1) + torch.arange(6)[:, None]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5, 2.0, 0.0])


def judged(sign: float, advantages: torch.Tensor = ADVANTAGES, last: int = 8) -> list[Any]:
    """What is said of a loss of ``sign`` times the log-probabilities, each with its advantage."""
    torch.manual_seed(0)
    logits = torch.randn(6, last, 20, requires_grad=True)
    following = IDS[:, 8 - last + 1 :, None]
    logps = logits[:, :-1].log_softmax(-1).gather(-1, following)[..., 0]
    weights = advantages if advantages.dim() == 2 else advantages[:, None]
    loss = sign * (logps * weights[:, : logps.shape[1]]).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    recording = Recording(steps=[Step()])
    recording.pulls.rises.append(Rises.of(gradient, IDS))
    inputs = {"completion_ids": IDS[:, -3:], "advantages": advantages}
    recording.first.micro_steps.append(MicroStep(inputs=inputs))
    return list(advantages_raise(recording))


@pytest.mark.parametrize("advantages", [ADVANTAGES, ADVANTAGES[:, None].repeat(1, 7)])
@pytest.mark.parametrize("last", [8, 5])
def test_the_sign_of_a_policy_s_loss(advantages: torch.Tensor, last: int) -> None:
    (measured,) = judged(-1.0, advantages, last)
    assert (measured.observed, measured.expected) == (0, 0)
    finding, measured = judged(1.0, advantages, last)
    assert isinstance(finding, Finding)
    assert (finding.observed, measured.observed) == (5, 5)  # one advantage is 0
    assert finding.headline.startswith("in all 5 rows the tokens move against their advantage")


def test_too_few_rows_say_nothing() -> None:
    with pytest.raises(Skip, match="no advantages come with the batch"):
        judged(1.0, torch.tensor([1.0, -1.0, 1.0, 0.0, 0.0, 0.0]))
