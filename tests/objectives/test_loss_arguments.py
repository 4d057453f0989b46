"""What loss functions are given, right and wrong, one call at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from trainsanity.measurements.step.loss_calls import loss_calls_seen
from trainsanity.types import Severity

LOGITS = torch.linspace(-3, 4, 24).reshape(4, 6)
CLASSES = torch.tensor([0, 3, 5, 1])
SHARES = LOGITS.flip(0).softmax(-1)
FRAMES = torch.linspace(-2, 2, 5 * 2 * 4).reshape(5, 2, 4)
"""[T, B, C]"""


def outputs() -> torch.Tensor:
    return LOGITS.clone().requires_grad_()


def seen(call) -> list:
    class Unseen:
        args = model = None

    found: list = []
    with loss_calls_seen(Unseen(), found):
        call()
    assert [one.where.partition(":")[0] for one in found] == ["test_loss_arguments.py"]
    return [(m.headline, m.cause, m.severity) for one in found for m in one.misfits]


def ctc(values, targets, lengths, frames=(5, 5), **more):
    return F.ctc_loss(values, torch.tensor(targets), frames, lengths, **more)


HEALTHY = {
    "logits": lambda: F.cross_entropy(outputs(), CLASSES),
    "logarithms are logits, too": lambda: F.cross_entropy(outputs().log_softmax(-1), CLASSES),
    "soft labels": lambda: F.cross_entropy(outputs(), SHARES),
    "soft labels in bfloat16": lambda: F.cross_entropy(outputs().bfloat16(), SHARES.bfloat16()),
    "capped logits": lambda: F.cross_entropy(30 * torch.tanh(outputs() / 30), CLASSES),
    "positive logits": lambda: F.cross_entropy(outputs().abs() + 1, CLASSES),
    "a head without a spread": lambda: F.cross_entropy(outputs() * 0, CLASSES),
    "classes last, transposed": lambda: F.cross_entropy(
        torch.stack([outputs(), outputs()]).transpose(1, 2), CLASSES.expand(2, -1)
    ),
    "one class weight for all": lambda: F.cross_entropy(outputs(), CLASSES, torch.ones(6)),
    "nll of logarithms": lambda: F.nll_loss(outputs().log_softmax(-1), CLASSES),
    "divergence": lambda: F.kl_div(outputs().log_softmax(-1), SHARES, reduction="batchmean"),
    "divergence of logarithms": lambda: F.kl_div(
        outputs().log_softmax(-1), SHARES.log(), reduction="sum", log_target=True
    ),
    "logits of yes and no": lambda: F.binary_cross_entropy_with_logits(outputs(), SHARES),
    "probabilities of yes": lambda: F.binary_cross_entropy(outputs().sigmoid(), SHARES),
    "signs": lambda: F.cosine_embedding_loss(outputs(), SHARES, torch.tensor([1, -1, 1, -1])),
    "ranks": lambda: F.margin_ranking_loss(outputs()[:, 0], LOGITS[:, 1], torch.ones(4)),
    "a sigmoid and shares": lambda: F.mse_loss(outputs().sigmoid(), SHARES),
    "a sigmoid that is scaled": lambda: F.mse_loss(5 * outputs().sigmoid(), 5 * SHARES),
    "a cosine and shares": lambda: F.mse_loss(F.cosine_similarity(outputs(), LOGITS), SHARES[:, 0]),
    "scores and no activation": lambda: F.l1_loss(outputs(), 5 * SHARES + 2),
    "one output of a sigmoid beside others": lambda: F.mse_loss(
        torch.cat([outputs()[:, :1].sigmoid(), outputs()[:, 1:]], 1), 5 * SHARES + 2
    ),
    "unknown targets that a mask takes out": lambda: F.mse_loss(
        outputs().sigmoid(), SHARES - 1, reduction="none"
    ),
    "triplets": lambda: F.triplet_margin_loss(outputs(), LOGITS + 1, LOGITS - 1),
    "paths": lambda: ctc(FRAMES.clone().requires_grad_().log_softmax(-1), [[1, 2], [3, 0]], (2, 1)),
    "paths in one row": lambda: ctc(
        FRAMES.clone().requires_grad_().log_softmax(-1), [1, 2, 3], (2, 1)
    ),
}
WARNED = {
    "one target out of reach": lambda: F.mse_loss(
        outputs().sigmoid(), torch.where(SHARES.max() == SHARES, 1.2, SHARES)
    ),
    "targets below a ReLU": lambda: F.smooth_l1_loss(outputs().relu(), LOGITS),
    "class weights": lambda: F.cross_entropy(outputs(), CLASSES, torch.arange(1.0, 7)),
    "ReLU": lambda: F.cross_entropy(outputs().relu(), CLASSES),
    "targets that weigh": lambda: F.cross_entropy(outputs(), 2 * SHARES),
    "divided by classes": lambda: F.kl_div(outputs().log_softmax(-1), SHARES, reduction="mean"),
    "some rows too short": lambda: ctc(
        FRAMES.clone().requires_grad_().log_softmax(-1), [[1, 1, 1], [2, 3, 1]], (3, 3), (4, 5)
    ),
}
WRONG = {
    "scores above a sigmoid": lambda: F.mse_loss(outputs().sigmoid(), 4 * SHARES + 1),
    "scores above two sigmoids": lambda: F.mse_loss(
        torch.cat([outputs()[:, :1].sigmoid(), outputs()[:, 1:].sigmoid()], 1), 5 * SHARES + 2
    ),
    "scores above a tanh": lambda: F.huber_loss(outputs().tanh()[:, 0], LOGITS[:, 0] - 2),
    "scores above a cosine": lambda: F.mse_loss(
        F.cosine_similarity(outputs(), LOGITS + 1), torch.tensor([0.0, 2, 3, 5])
    ),
    "scores above a cosine by hand": lambda: F.l1_loss(
        (F.normalize(outputs(), dim=-1) * F.normalize(outputs() + 1, dim=-1)).sum(-1),
        torch.tensor([0.0, 2, 3, 5]),
    ),
    "scores above all cosines": lambda: F.mse_loss(
        F.normalize(outputs(), dim=-1) @ F.normalize(outputs() + 1, dim=-1).T, 2 + SHARES[:, :4]
    ),
    "probabilities": lambda: F.cross_entropy(outputs().softmax(-1), CLASSES),
    "probabilities, chosen": lambda: F.cross_entropy(
        outputs().softmax(-1)[1:].view(3, 6), SHARES[1:]
    ),
    "bfloat16": lambda: F.cross_entropy(outputs().bfloat16().softmax(-1), CLASSES),
    "a sigmoid": lambda: F.cross_entropy(outputs().sigmoid(), CLASSES),
    "a tanh": lambda: F.cross_entropy(outputs().tanh(), CLASSES),
    "axes exchanged by view": lambda: F.cross_entropy(
        torch.stack([outputs(), outputs()]).view(2, 6, 4), CLASSES.expand(2, -1)
    ),
    "several classes": lambda: F.cross_entropy(outputs(), torch.ones(4, 6)),
    "probabilities for logarithms": lambda: F.nll_loss(outputs().softmax(-1), CLASSES),
    "logits for logarithms": lambda: F.nll_loss(outputs(), CLASSES),
    "student's probabilities": lambda: F.kl_div(
        outputs().softmax(-1), SHARES, reduction="batchmean"
    ),
    "teacher's logits": lambda: F.kl_div(outputs().log_softmax(-1), LOGITS, reduction="batchmean"),
    "not logarithms": lambda: F.kl_div(
        outputs().log_softmax(-1), SHARES, reduction="batchmean", log_target=True
    ),
    "sigmoid twice": lambda: F.binary_cross_entropy_with_logits(outputs().sigmoid(), SHARES),
    "ignored labels": lambda: F.binary_cross_entropy_with_logits(
        outputs(), torch.full((4, 6), -100.0)
    ),
    "no signs": lambda: F.cosine_embedding_loss(outputs(), SHARES, torch.tensor([1, 0, 1, 0])),
    "no ranks": lambda: F.margin_ranking_loss(outputs()[:, 0], LOGITS[:, 1], torch.zeros(4)),
    "the same twice": lambda: F.triplet_margin_loss(outputs(), LOGITS + 1, LOGITS + 1),
    "blank is a letter": lambda: ctc(
        FRAMES.clone().requires_grad_().log_softmax(-1), [[1, 0], [3, 2]], (2, 2)
    ),
    "paths of logits": lambda: ctc(FRAMES.clone().requires_grad_(), [[1, 2], [3, 2]], (2, 2)),
}


@pytest.mark.parametrize("call", HEALTHY.values(), ids=HEALTHY)
def test_what_they_are_defined_for(call):
    assert seen(call) == []


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("call", WARNED.values(), ids=WARNED)
def test_what_may_come_right(call):
    assert [severity for *_, severity in seen(call)] == [Severity.WARNING]


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_what_they_are_not_defined_for(call):
    assert [severity for *_, severity in seen(call)] == [Severity.FAILURE]


def test_the_floor_of_a_cross_entropy_is_reached():
    ((headline, *_),) = seen(WRONG["probabilities"])
    surest = F.cross_entropy(F.one_hot(CLASSES, 6).float(), CLASSES)
    assert f"below {float(surest):.4f}" in headline
    assert math.isclose(float(surest), math.log1p(5 / math.e), rel_tol=1e-6)


def test_what_no_gradient_comes_from_is_left_alone():
    with torch.no_grad():
        found: list = []

        class Unseen:
            args = model = None

        with loss_calls_seen(Unseen(), found):
            F.cross_entropy(LOGITS.softmax(-1), CLASSES)
    assert found == []


MASK = (LOGITS[:, :5] > 0).float()


def overlaps(activation) -> list:
    class Unseen:
        args = model = None

    layer = torch.nn.Linear(6, 5)
    found: list = []
    with loss_calls_seen(Unseen(), found):
        mask = activation(layer(LOGITS))
        (2 * (mask * MASK).sum(-1) + 1) / (mask.sum(-1) + MASK.sum(-1) + 1)
    return [misfit.severity for one in found for misfit in one.misfits]


def test_an_overlap_of_logits():
    assert overlaps(lambda logits: logits) == [Severity.FAILURE]
    assert overlaps(lambda logits: logits[:, None].mean(1)) == [Severity.FAILURE]
    assert overlaps(torch.sigmoid) == []
    assert overlaps(lambda logits: logits.softmax(-1)) == []
    assert overlaps(lambda logits: logits.clamp(0, 1)) == []


def test_ratios_that_are_no_overlaps():
    layer = torch.nn.Linear(6, 5)
    found: list = []

    class Unseen:
        args = model = None

    with loss_calls_seen(Unseen(), found):
        outputs = layer(LOGITS)
        (outputs * MASK).sum() / MASK.sum()
        outputs / outputs.norm()
        outputs * MASK / outputs.sum(-1, keepdim=True)
        (outputs * (MASK + 1)).sum() / outputs.sum()
    assert found == []


def test_the_least_error_of_a_bounded_output():
    targets = torch.tensor([0.0, 2, 3, 5])
    ((headline, *_),) = seen(WRONG["scores above a cosine"])
    assert f"below {float(((targets - targets.clamp(-1, 1)) ** 2).mean()):.4g}" in headline


def test_calls_by_keyword_and_of_plain_numbers_are_left_to_torch():
    class Unseen:
        args = model = None

    values = outputs()
    with loss_calls_seen(Unseen(), []):
        assert torch.equal(torch.div(input=values, other=2.0), values / 2)
        assert torch.equal(torch.softmax(input=values, dim=0), values.softmax(0))
        with pytest.raises(ValueError, match="Expected input batch_size"):
            F.cross_entropy(values, CLASSES[:3])


def over_rows(*sizes: int) -> list:
    """What is said of a softmax along axis 0 of so many vectors, one call after the other."""
    found: list = []

    class Unseen:
        model = None
        args = type("Args", (), {"train_batch_size": 4})

    with loss_calls_seen(Unseen(), found):
        for size in sizes:
            torch.ones(size, 1, requires_grad=True).neg().softmax(0)
    return [misfit.headline for call in found for misfit in call.misfits]


def test_axis_0_is_that_of_the_rows_only_if_it_always_is():
    (said,) = over_rows(4, 4)
    assert said.startswith("softmax is taken of outputs of shape [4, 1] along axis 0")
    # Bags of instances, one of which has as many as there are rows.
    assert over_rows(4, 3, 5) == over_rows(3, 4) == []
