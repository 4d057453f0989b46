"""The simulated learning rate against its formula, however the warm-up is given."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fixtures.controls import all_controls
from fixtures.faults import all_faults, healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.engine.session import Session
from trainsanity.engine.store import catalogue
from trainsanity.pipeline import Pipeline
from trainsanity.types import Status

(stepped_per_micro_batch,) = (one for one in all_faults() if one.id == "stepped_per_micro_batch")
CONTROLS = {control.id: control for control in all_controls()}
STEPS, PEAK = 10_376, 1e-5


def linear(k: int, warmup: int) -> float:
    return PEAK * (k / warmup if k < warmup else (STEPS - k) / (STEPS - warmup))


def cosine(k: int, warmup: int) -> float:
    if k < warmup:
        return PEAK * k / warmup
    return PEAK * (1 + math.cos(math.pi * (k - warmup) / (STEPS - warmup))) / 2


def ratio(**settings: object) -> object:
    return CONTROLS["warmup_ratio"].build(**settings)


@pytest.mark.parametrize(
    ("build", "kind", "formula", "warmup"),
    [
        (healthy, "linear", linear, 700),
        (healthy, "cosine", cosine, 700),
        # ceil(0.067 * 10_376)
        (ratio, "linear", linear, 696),
        (ratio, "cosine", cosine, 696),
    ],
)
def test_the_curve_is_the_formulas(build, kind, formula, warmup):
    trainer = build(rows=24)
    trainer.args.lr_scheduler_type = kind
    schedule = Session.of(Pipeline.from_trainer(trainer)).measurements.get("schedule")
    assert (schedule.max_steps, schedule.warmup_steps) == (STEPS, warmup)
    assert {0, 1, 99, warmup // 2, warmup, STEPS - 1} <= set(schedule.curve)
    for k, rate in schedule.curve.items():
        assert rate == pytest.approx(formula(k, warmup), rel=1e-12, abs=1e-18)


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs"),
    [(97, 4, 4, 3), (10, 4, 4, 2), (50, 3, 2, 1.5)],
)
@pytest.mark.parametrize("drops_last", [False, True])
def test_the_steps_of_a_run_are_those_that_the_trainer_takes(
    rows, batch, accumulation, epochs, drops_last
):
    trainer = healthy(
        rows=rows, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    )
    trainer.args.dataloader_drop_last = drops_last
    trainer.args.max_steps, trainer.args.num_train_epochs = -1, epochs
    pipeline = Pipeline.from_trainer(trainer)
    planned = Session.of(pipeline).measurements.get("schedule").max_steps
    batches = rows // batch if drops_last else -(-rows // batch)
    assert planned == math.ceil(epochs * -(-batches // accumulation))
    trainer.training_step = stop
    with pytest.raises(Stopped):
        trainer.train()
    assert planned == trainer.state.max_steps


class Stopped(Exception):
    pass


def stop(*args, **kwargs):
    raise Stopped


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_curve_of_a_loop_goes_one_step_beyond_what_is_recorded(steps):
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        torch.optim.SGD([parameter], lr=0.5), lambda k: 1 / (k + 1)
    )
    loop = SimpleNamespace(
        trainer=None, captured=None, lr_scheduler=scheduler, optimizer_steps=steps
    )
    curve = catalogue()["schedule"].fn(loop).curve
    assert curve == {k: 0.5 / (k + 1) for k in range(steps + 1)}


def by_the_user(lr: float, cls: type = torch.optim.SGD) -> object:
    trainer = healthy(rows=24)
    trainer.optimizer = cls(trainer.model.parameters(), lr=lr)
    return trainer


def rates(trainer: object) -> dict[str, object]:
    names = ["schedule.learning_rate_follows", "schedule.peak_is_reached"]
    report = run(Pipeline.from_trainer(trainer), registry().select(names))
    return {result.check.name: result for result in report.results}


def test_the_schedule_multiplies_the_rate_of_the_users_optimizer() -> None:
    results = rates(by_the_user(0.1))
    assert {str(result.status) for result in results.values()} == {"pass"}
    assert results["schedule.peak_is_reached"].observed["peak"] == pytest.approx(0.1)


def test_a_scheduler_that_is_stepped_too_often_is_seen_under_any_rate() -> None:
    results = rates(stepped_per_micro_batch.break_(by_the_user(0.1)))
    assert results["schedule.learning_rate_follows"].status is Status.FAIL
    assert results["schedule.peak_is_reached"].status is Status.PASS


@pytest.mark.parametrize(
    ("cls", "asked", "status"),
    [
        (torch.optim.AdamW, 1e-5, Status.WARNING),
        (torch.optim.AdamW, 5e-5, Status.PASS),  # the default, which nobody asked for
        (torch.optim.SGD, 1e-5, Status.PASS),  # a rate for AdamW
    ],
)
def test_a_learning_rate_that_nobody_uses_is_a_warning_where_it_was_asked_for(
    cls: type, asked: float, status: Status
) -> None:
    trainer = by_the_user(1e-4, cls)
    trainer.args.learning_rate = asked
    assert rates(trainer)["schedule.learning_rate_follows"].status is status


def own_scheduler(factor, cls=torch.optim.lr_scheduler.LambdaLR):
    trainer = by_the_user(1e-4)
    trainer.lr_scheduler = cls(trainer.optimizer, factor)
    return Pipeline.from_trainer(trainer)


def test_a_schedule_may_be_a_list_with_an_end() -> None:
    factors = [1.0, 0.5, 0.25]
    pipeline = own_scheduler(lambda step: factors[step])
    (result,) = run(pipeline, registry().select(["schedule.rates_are_meant"])).results
    assert result.status is Status.PASS, result
    assert "highest factor is 1" in result.message


def test_a_schedule_may_be_an_object_that_counts_its_calls() -> None:
    class Factor:
        calls = 0

        def __call__(self, step):
            self.calls += 1
            return 1 / (1 + step)

    factor = Factor()
    pipeline = own_scheduler(factor)
    before = factor.calls
    report = run(pipeline, registry().select(["schedule"]))
    assert not [r for r in report.results if r.status in (Status.ERROR, Status.FAIL)]
    assert factor.calls == before


def test_a_scheduler_of_a_notebook_has_no_source_to_read() -> None:
    there = {"LambdaLR": torch.optim.lr_scheduler.LambdaLR, "__name__": "a_cell"}
    exec("class Own(LambdaLR): pass", there)
    pipeline = own_scheduler(lambda step: 1.0, there["Own"])
    pipeline.trainer.optimizer.param_groups[0]["lr_scale"] = 0.5
    (result,) = run(pipeline, registry().select(["update.groups_are_read"])).results
    assert (result.status, result.observed) == (Status.FAIL, [0.5])
