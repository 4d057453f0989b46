"""What is kept of the recorded steps: samples, norms, references, each against its formula."""

from __future__ import annotations

import math

import pytest
import torch

from fixtures.controls import all_controls
from fixtures.faults import healthy
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import REDUCTIONS
from trainsanity.measurements.model.head import _pooled, same_direction
from trainsanity.measurements.model.items import Items
from trainsanity.measurements.step.record_gradients import backward_recorded
from trainsanity.measurements.step.reference_loss import item_weights, reference
from trainsanity.measurements.step.sampling import SAMPLE, sample, total_norm
from trainsanity.measurements.step.steps import MicroStep, Recording, Step
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((3, 5), 1),
        ((SAMPLE,), 1),
        ((2 * SAMPLE - 1,), 1),
        # An odd stride beside rows of an even length, and one that shares no divisor with theirs.
        ((4 * SAMPLE // 64, 64), 3),
        ((6 * SAMPLE // 64, 64), 5),
        ((8 * SAMPLE // 64, 64), 7),
        ((7 * SAMPLE // 35 + 1, 35), 6),
        ((4 * SAMPLE // 30 + 1, 30), 1),
    ],
)
def test_a_sample_goes_through_all_rows_and_columns(shape, stride):
    numbers = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    taken = sample(numbers)
    assert taken.tolist() == [stride * k for k in range(min(SAMPLE, -(-numbers.numel() // stride)))]
    if numbers.dim() == 2:
        assert {int(one) % shape[1] for one in taken} == set(range(shape[1]))


def test_a_sample_is_a_copy():
    one = torch.zeros(3)
    taken = sample(one)
    one.fill_(1)
    assert taken.tolist() == [0, 0, 0]


def test_the_total_norm_is_that_of_all_gradients_together():
    model = torch.nn.Linear(2, 1)
    assert total_norm(model) == 0
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    assert total_norm(model) == 5
    model.bias.grad = torch.tensor([12.0])
    assert total_norm(model) == 13


def test_a_gradient_counts_where_the_accelerator_computes_it_and_nowhere_else():
    """A penalty on gradients asks for them before the loss is sent backward.

    Of two passes for one micro-batch, as of an attack, the norms are added up: a bound from above.
    """
    from accelerate import Accelerator

    model, accelerator = torch.nn.Linear(2, 1, bias=False), Accelerator(cpu=True)
    plain = accelerator.backward
    seen = Recording(steps=[Step(micro_steps=[MicroStep()])])
    (micro,) = seen.first.micro_steps
    try:
        with backward_recorded(seen, model, accelerator):
            for rows, norm in (([[3.0, 4.0]], 5), ([[30.0, 40.0]], 55)):
                model(torch.tensor([[5.0, 6.0]])).sum().backward()  # nobody's loss
                loss = model(torch.tensor(rows)).sum()
                accelerator.backward(loss)
                assert micro.backward_loss == loss.item()
                assert micro.gradient_norm == pytest.approx(norm)
    finally:
        accelerator.backward = plain
    model(torch.tensor([[1.0, 2.0]])).sum().backward()
    assert micro.gradient_norm == pytest.approx(55)


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.from_trainer(healthy())


def items(*losses):
    return Items(torch.zeros(len(losses)), torch.tensor(losses).double(), None, None, None)


def step(*parts, counted=None):
    return Step(micro_steps=[MicroStep(counted, items=part) for part in parts])


def test_the_reference_is_a_mean_over_items_or_over_micro_batches(pipeline):
    counted = reference(pipeline, step(items(1.0, 2.0, 3.0), items(10.0), counted=4))
    assert (counted.mean, counted.count) == (4, 4)
    assert counted.words == f"mean over the 4 {objective_of(pipeline).item_word}"
    halves = reference(pipeline, step(items(1.0, 2.0, 3.0), items(10.0)))
    assert halves.mean == pytest.approx(6)  # (2 + 10) / 2
    assert (
        halves.words == f"mean of 2 micro-batch means over the {objective_of(pipeline).item_word}"
    )
    # Of equal sizes there is one mean.
    even = reference(pipeline, step(items(1.0, 2.0), items(3.0, 6.0)))
    assert even.mean == 3
    assert even.words == f"mean over the 4 {objective_of(pipeline).item_word}"
    # One that is counted is enough.
    mixed = step(items(1.0), items(2.0, 3.0))
    mixed.micro_steps[1].num_items_in_batch = 3.0
    assert item_weights(mixed, [1, 2]) == [1 / 3, 1 / 3]


def test_what_is_not_seen_has_no_reference(pipeline):
    with pytest.raises(Skip, match="did not make logits"):
        reference(pipeline, step(items(1.0), None))
    with pytest.raises(Skip, match="did not make logits"):
        reference(pipeline, step())
    with pytest.raises(Skip, match="nothing that the loss counts"):
        reference(pipeline, step(items(1.0), items()))
    given = reference(pipeline, step(None, None), [items(1.0), items(3.0)])
    assert given.mean == 2


def test_a_step_is_judged_that_was_logged_and_seen():
    whole = step(items(1.0))
    assert not whole.judgeable
    whole.logged = {"loss": 1.0}
    assert whole.judgeable
    whole.micro_steps.append(MicroStep())
    assert not whole.judgeable


@pytest.mark.parametrize(
    ("norm", "clip", "slope", "is_so"),
    [
        (1.0, 1.0, 0.5, True),
        (1.0005, 1.0, 0.5, True),
        (1.002, 1.0, 0.5, False),
        (1.0, 1.0, 0.9995, False),
        (1.0, 1.0, 12.0, False),
        (1.0, 1.0, 0.0, False),
        (1.0, 1.0, -0.5, False),
        (0.0, 0.0, 0.5, False),
        (1.0, None, 0.5, False),
    ],
)
def test_a_gradient_that_was_clipped_before_has_the_norm_that_is_allowed(norm, clip, slope, is_so):
    one = Pipeline.from_trainer(healthy())
    one.trainer.args.max_grad_norm = clip
    inputs = {"input_ids": torch.zeros(2, 7, dtype=torch.long)}
    seen = Recording(
        steps=[Step(micro_steps=[MicroStep(inputs=inputs)], norm_before_clip=norm)],
    )
    assert seen.clipped_before(one, slope) is is_so
    facts = seen.facts(one, slope)
    assert facts["sequence_length"] == 7
    assert facts.get("grad_norm") == (norm / slope if is_so else None)


# --- the head ------------------------------------------------------------------------------------

MADE = torch.tensor([[[1.0, 2.0], [3.0, 5.0], [1.0, 2.0]], [[7.0, 1.0], [2.0, 9.0], [4.0, 4.0]]])
GIVEN = torch.arange(24.0).reshape(2, 3, 4)


def test_the_column_that_logits_were_read_at():
    logits = torch.stack([MADE[0, 1], MADE[1, 2]])
    seen = _pooled(logits, GIVEN, MADE, None)
    assert seen.index == [1, 2]
    assert torch.equal(seen.vector, torch.stack([GIVEN[0, 1], GIVEN[1, 2]]))
    assert (seen.scale, seen.ambiguous, seen.dtype) == (1.0, False, torch.float32)


@pytest.mark.parametrize(
    ("mask", "column"),
    [(None, 2), ([[1, 1, 0], [1, 1, 1]], 0), ([[1, 1, 1], [1, 1, 1]], 2), ([[1, 1]] * 2, 2)],
)
def test_of_two_alike_the_last_that_is_attended(mask, column):
    logits = torch.stack([MADE[0, 0], MADE[1, 1]])
    seen = _pooled(logits, GIVEN, MADE, None if mask is None else torch.tensor(mask))
    assert seen.index == [column, 1]
    assert seen.ambiguous


def test_logits_that_are_scaled_after_the_head():
    seen = _pooled(0.5 * torch.stack([MADE[0, 1], MADE[1, 0]]), GIVEN, MADE, None)
    assert seen.index == [1, 0]
    assert seen.scale == pytest.approx(0.5)


def test_one_vector_for_each_row():
    seen = _pooled(MADE[:, 1], GIVEN[:, 1], MADE[:, 1], None)
    assert seen.index is None
    assert torch.equal(seen.vector, GIVEN[:, 1])
    scaled = _pooled(2 * MADE[:, 1], GIVEN[:, 1], MADE[:, 1], None)
    assert torch.equal(scaled.vector, GIVEN[:, 1])
    assert (scaled.index, scaled.scale) == (None, pytest.approx(2.0))
    none = _pooled(MADE[:, 1], GIVEN[:, 0], MADE[:, 1].flip(1), None)
    assert (none.vector, none.index) == (None, None)


def test_logits_for_each_token():
    assert torch.equal(_pooled(MADE, GIVEN, MADE, None).vector, GIVEN)
    other = _pooled(MADE, GIVEN, MADE + 1, None)
    assert (other.vector, other.index) == (None, None)


@pytest.mark.parametrize(
    ("logits", "made"),
    [
        (MADE, MADE[:, 1]),
        (MADE, MADE[:, :2]),
        (MADE, MADE[:, :1].clone()),
        (MADE[None], MADE[None]),
        (MADE[:1, 0], MADE),
        (MADE[0, 0], MADE),
        (torch.ones(2, 3), MADE),  # scores of each row with each other row
    ],
)
def test_logits_of_another_shape_come_from_somewhere_else(logits, made):
    seen = _pooled(logits, GIVEN, made, None)
    assert seen.logits is logits
    assert (seen.vector, seen.index) == (None, None)


def test_logits_that_no_column_made():
    seen = _pooled(torch.tensor([[1.0, -2.0], [7.0, 1.0]]), GIVEN, MADE, None)
    assert (seen.vector, seen.index) == (None, [None, None])


def test_a_head_of_zeros_has_no_scale():
    seen = _pooled(torch.zeros(2, 2), GIVEN, torch.zeros(2, 3, 2), None)
    assert (seen.index, seen.scale) == ([2, 2], 1.0)


def test_the_direction_is_as_coarse_as_the_coarser():
    assert same_direction(torch.float32, torch.bfloat16) == 1 - 4 * 2**-14 - REDUCTIONS
    assert same_direction(torch.float32) == 1 - 4 * 2**-46 - REDUCTIONS


# --- a run of several steps ----------------------------------------------------------------------


def test_what_is_done_in_between_is_done_once_at_the_cut(tmp_path):
    from trainsanity.measurements.runs.trace import Plan, trace

    (plain,) = (one for one in all_controls() if one.id == "plain")
    trainer = plain.build(rows=24, per_device_train_batch_size=1)
    done = []
    seen = trace(
        Pipeline.from_trainer(trainer),
        Plan(2, 4, None),
        str(tmp_path),
        between=lambda: done.append(trainer.state.global_step),
    )
    assert done == [2]
    assert list(seen.batches) == list(seen.losses) == [0, 1, 2, 3]
