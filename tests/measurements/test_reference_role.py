"""What a second model is for, as its loss tells."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from trainsanity.measurements.step.reference_role import Role, role_of  # noqa: E402


class Model(torch.nn.Module):
    """Predicts from the token alone."""

    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(40, 40)

    def forward(self, input_ids):
        return {"logits": self.words(input_ids)}


IDS = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(0))


def told(logits):
    return logits[:, :-1].log_softmax(-1).gather(2, IDS[:, 1:, None])[..., 0]


def preferred(own, other):
    margin = (told(own) - told(other)).sum(1)
    return -F.logsigmoid(0.1 * (margin[:3] - margin[3:])).mean()


def identity(own, other):
    margin = (told(own) - told(other)).mean(1)
    return ((margin[:3] - margin[3:] - 5) ** 2).mean()


def rewarded(own, other):
    ratio = (told(own) - told(other)).exp()
    advantages = torch.linspace(-1, 1, 6)[:, None]
    return -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def distilled(own, other):
    return F.kl_div(
        own.log_softmax(-1), other.log_softmax(-1), log_target=True, reduction="batchmean"
    )


def softly(own, other):
    return -(other.softmax(-1) * own.log_softmax(-1)).sum(-1).mean()


def squared(own, other):
    return F.mse_loss(own, other)


def worst_tokens(own, other):
    each = -told(own)
    excess = (each + told(other)).flatten()
    return each.flatten()[excess >= excess.topk(24).values[-1]].mean()


def easier_rows(own, other):
    easy = told(other).mean(1)
    return -told(own)[easy >= easy.median()].mean()


def anchored(own, other):
    return -told(own).mean() + 0.1 * distilled(other, own)


def preferred_and_learnt(own, other):
    return preferred(own, other) - 0.5 * told(own[:3].repeat(2, 1, 1))[:3].mean()


def alone(own, other):
    return -told(own).mean()


@pytest.mark.parametrize(
    ("formula", "role"),
    [
        (preferred, Role.REWARD),
        (identity, Role.REWARD),
        (rewarded, Role.REWARD),
        (distilled, Role.TEACHER),
        (softly, Role.TEACHER),
        (squared, Role.TEACHER),
        (worst_tokens, Role.CHOICE),
        (easier_rows, Role.CHOICE),
        (anchored, Role.BESIDE),
        (preferred_and_learnt, Role.BESIDE),
        (alone, None),
    ],
)
@pytest.mark.parametrize("first", ["policy", "reference"])
def test_the_loss_tells_what_its_reference_is_for(formula, role, first):
    policy = Model()
    reference = copy.deepcopy(policy).requires_grad_(False)

    def ask():
        models = [policy, reference] if first == "policy" else [reference, policy]
        said = {id(model): model(IDS)["logits"] for model in models}
        return formula(said[id(policy)], said[id(reference)]).item()

    before = ask()
    assert role_of(ask, policy, [reference]) is role
    assert ask() == before  # nothing is left in the models


def test_a_loop_may_ask_for_gradients():
    policy = Model()
    reference = copy.deepcopy(policy).requires_grad_(False)

    def ask():
        loss = preferred(policy(IDS)["logits"], reference(IDS)["logits"])
        loss.backward()
        return loss.item()

    assert role_of(ask, policy, [reference]) is Role.REWARD
