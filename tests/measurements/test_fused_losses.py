"""What a fused loss rounds that the reference gradient does not, and the other way round."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from fixtures.controls import all_controls
from fixtures.controls.fused import fused_cross_entropy
from trainsanity.engine.session import Session
from trainsanity.maths.regression import regress
from trainsanity.maths.tolerances import MARGIN
from trainsanity.measurements.step.bounds import added_in_parts
from trainsanity.pipeline import Pipeline


def control(name):
    return next(one for one in all_controls() if one.id == name)


@pytest.mark.parametrize("parts", [2, 16, 128])
@pytest.mark.parametrize("alike", [True, False])
def test_a_sum_in_bfloat16_is_off_by_no_more_than_its_additions_round(parts, alike):
    torch.manual_seed(0)
    terms = torch.randn(parts, 4096, dtype=torch.float64)
    terms = (terms[0].abs() + 0.1 * terms if alike else terms).bfloat16()
    total = torch.zeros(4096, dtype=torch.bfloat16)
    for term in terms:
        total = total + term
    exact = terms.double().sum(0)
    off = float((total.double() - exact).norm() / exact.norm())
    allowed = added_in_parts(torch.bfloat16, parts)
    assert allowed / 8 < off < MARGIN * allowed


def test_one_over_the_count_is_rounded_in_the_reference_and_not_in_the_kernel():
    """(p - 1) / 365 is 0.28 % off in bfloat16, and so are all gradients of a reference with it."""
    torch.manual_seed(0)
    count = 365
    weight = 0.02 * torch.randn(2048, 256)
    rows = torch.randn(256) + 0.01 * torch.randn(count, 256)
    targets = torch.full((count,), 7)
    found = []
    for fused in (False, True):
        norm = torch.ones(256, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            if fused:
                loss = fused_cross_entropy(rows * norm, weight, targets, count)
            else:
                logits = (rows * norm) @ weight.T
        if not fused:
            loss = functional.cross_entropy(logits.float(), targets, reduction="sum") / count
        loss.backward()
        found.append(norm.grad)
    slope, _ = regress(found[1], found[0])
    half_a_unit = float(torch.finfo(torch.bfloat16).eps) / 2
    assert 2e-3 < abs(slope - 1) < half_a_unit


def test_a_fused_loss_is_allowed_the_rounding_of_its_scale():
    trainer = control("fused_loss_under_autocast").build()
    replay = Session.of(Pipeline.from_trainer(trainer)).measurements.get("replay")
    assert replay.common == float(torch.finfo(torch.bfloat16).eps) / 2
    plain = control("every_second_layer").build()
    assert Session.of(Pipeline.from_trainer(plain)).measurements.get("replay").common == 0
