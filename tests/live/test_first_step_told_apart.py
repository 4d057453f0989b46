"""While a run runs, the model's own losses tell equal quantities apart."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trainsanity.live.first_step import FirstStep
from trainsanity.objectives.classification import SingleLabel
from trainsanity.types import Finding

STEPS, LABELS = "gradient_accumulation_steps = 3", "num_labels = 3"


class Head(torch.nn.Module):
    """Returns what it is given, with its loss times a number."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    def forward(self, logits, labels):
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=self.times * loss)


@pytest.mark.parametrize(
    ("times", "left"), [(1.0, (STEPS,)), (3.0, (STEPS, LABELS))], ids=["between", "inside"]
)
def test_a_model_that_is_right_leaves_what_is_between(times, left) -> None:
    first, head = FirstStep(SingleLabel()), Head(times)
    first.watch(head)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(3):
        logits = torch.randn(2, 3, generator=generator)
        labels = torch.randint(3, (2,), generator=generator)
        losses.append(float(head(logits=logits, labels=labels).loss) / times)
    first.close(torch.device("cpu"))
    facts = {"gradient_accumulation_steps": 3, "num_labels": 3}
    (finding,) = (one for one in first.scale(sum(losses), facts) if isinstance(one, Finding))
    assert finding.factor == pytest.approx(3, rel=1e-3)
    assert finding.candidates == left
    ruled_out = (
        f"{LABELS} is ruled out: the model's own losses are {sum(losses) / 3:.4f} on average"
    )
    assert finding.tested == (ruled_out if times == 1 else None)
