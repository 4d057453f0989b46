"""Custom training loops: bare torch and accelerate, right and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.faults import healthy
from tests.check_snapshots import assert_results, assert_statuses
from tests.untouched import untouched
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.errors import UsageError
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec

pytestmark = pytest.mark.long

ACCUMULATION, ROWS = 3, 4


def looped(step: Any = None, **changes: Any) -> Pipeline:
    """The tiny pipeline in a loop of bare torch with a clip and a schedule."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    trainer = healthy()
    trainer.model.config.pad_token_id = trainer.processing_class.pad_token_id
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    scheduler = get_linear_schedule_with_warmup(optimizer, 10, 100)

    def train_step(micro_batches: list[Any]) -> float:
        optimizer.zero_grad()
        total = 0.0
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss / len(micro_batches)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return total

    parts: dict[str, Any] = {
        "model": model,
        "train_dataset": trainer.train_dataset.select_columns(
            ["input_ids", "attention_mask", "label"]
        ),
        "data_collator": trainer.data_collator,
        "train_step": step(model, optimizer, scheduler) if step else train_step,
        "optimizer": optimizer,
        "lr_scheduler": scheduler,
        "per_device_train_batch_size": ROWS,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_grad_norm": 1.0,
    }
    return Pipeline.from_loop(**{**parts, **changes})


def judged(pipeline: Pipeline) -> dict[str, Any]:
    with untouched(pipeline):
        report = run(pipeline, registry().select())
    return {result.check.name: result for result in report.results}


def names(results: dict[str, Any], status: str) -> set[str]:
    return {name for name, result in results.items() if str(result.status) == status}


def test_a_healthy_loop_passes_what_applies():
    results = judged(looped())
    assert names(results, "fail") == names(results, "error") == names(results, "blocked") == set()
    assert_statuses("custom loop, healthy", results.values())
    assert "slope 1.0000" in results["gradient.head_closed_form"].message
    assert "2 steps compared" in results["gradient.head_closed_form"].message


def undivided(model: Any, optimizer: Any, scheduler: Any) -> Any:
    """huggingface/transformers#47688 in a loop: each micro-batch's mean is sent backward whole."""

    def train_step(micro_batches: list[Any]) -> float:
        optimizer.zero_grad()
        total = 0.0
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        scheduler.step()
        return total / len(micro_batches)

    return train_step


def divided_by_a_number_of_its_own(model: Any, optimizer: Any, scheduler: Any) -> Any:
    """The loop divides by its constant, however many micro-batches it is given: that is right."""

    def train_step(micro_batches: list[Any]) -> float:
        optimizer.zero_grad()
        total = 0.0
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss / ACCUMULATION
            loss.backward()
            total += loss.item()
        optimizer.step()
        scheduler.step()
        return total

    return train_step


def test_a_loop_may_divide_by_a_number_of_its_own():
    results = judged(looped(divided_by_a_number_of_its_own, max_grad_norm=0.0))
    assert names(results, "fail") == set()
    assert results["gradient.step_is_the_weighted_sum"].observed == pytest.approx(1, rel=1e-3)
    assert str(results["loss.logged_is_a_mean"].status) == "pass"


def stepped_per_micro_batch(model: Any, optimizer: Any, scheduler: Any) -> Any:
    """huggingface/accelerate#963: the scheduler counts micro-batches."""

    def train_step(micro_batches: list[Any]) -> float:
        optimizer.zero_grad()
        total = 0.0
        for k, micro_batch in enumerate(micro_batches, 1):
            loss = model(**micro_batch).loss / len(micro_batches)
            loss.backward()
            total += loss.item()
            if k == len(micro_batches):
                optimizer.step()
        for _ in micro_batches:
            scheduler.step()
        return total

    return train_step


def never_zeroed(model: Any, optimizer: Any, scheduler: Any) -> Any:
    """zero_grad is left out."""

    def train_step(micro_batches: list[Any]) -> float:
        total = 0.0
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss / len(micro_batches)
            loss.backward()
            total += loss.item()
        optimizer.step()
        scheduler.step()
        return total

    return train_step


@pytest.mark.parametrize(
    ("step", "killed", "factor"),
    [
        (
            undivided,
            {"gradient.head_closed_form", "gradient.step_is_the_weighted_sum"},
            ACCUMULATION,
        ),
        (stepped_per_micro_batch, {"schedule.learning_rate_follows"}, ACCUMULATION),
        (never_zeroed, {"gradient.starts_from_zero"}, None),
    ],
)
def test_a_wrong_loop_is_told_where(step, killed, factor):
    results = judged(looped(step, max_grad_norm=0.0))
    assert names(results, "fail") == killed
    for name in killed:
        assert_results(f"custom loop {step.__name__}", [results[name]])
        if factor:
            assert results[name].factor == pytest.approx(factor, rel=1e-3)


def test_accelerate():
    import accelerate

    def step(model: Any, optimizer: Any, scheduler: Any) -> Any:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

        def train_step(micro_batches: list[Any]) -> Any:
            total = 0.0
            for micro_batch in micro_batches:
                with accelerator.accumulate(model):
                    loss = model(**micro_batch).loss
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
                total += loss.detach() / len(micro_batches)
            return total

        return train_step

    results = judged(looped(step))
    assert names(results, "fail") == names(results, "error") == set()
    # It steps after a number of its own, so that no micro-batch can be asked as a whole step.
    assert_statuses("custom loop of accelerate, healthy", results.values())


def with_a_loss_of_its_own(model: Any, optimizer: Any, scheduler: Any) -> Any:
    import torch

    def train_step(micro_batches: list[Any]) -> float:
        optimizer.zero_grad()
        total = 0.0
        for micro_batch in micro_batches:
            wanted = micro_batch.pop("target")
            loss = torch.nn.functional.cross_entropy(model(**micro_batch).logits, wanted)
            (loss / len(micro_batches)).backward()
            total += loss.item() / len(micro_batches)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return total

    return train_step


def test_without_labels_for_the_model_the_loss_is_nobodys_to_say():
    collate = healthy().data_collator

    def data_collator(rows: list[Any]) -> Any:
        batch = collate(rows)
        batch["target"] = batch.pop("labels")
        return batch

    results = judged(looped(with_a_loss_of_its_own, data_collator=data_collator))
    assert names(results, "error") == set()
    assert str(results["loss.matches_reference"].status) == "skip"
    assert str(results["update.moves_the_right_ones"].status) == "pass"


def broken_in_the_second(model: Any, optimizer: Any, scheduler: Any) -> Any:
    """Steps once, and raises in the second step, with half of its gradient there."""

    def train_step(micro_batches: list[Any]) -> float:
        for micro_batch in micro_batches:
            loss = model(**micro_batch).loss
            loss.backward()
            if scheduler.last_epoch:
                raise ValueError("the second step")
        optimizer.step()
        scheduler.step()
        return loss.item()

    return train_step


def test_a_loop_that_never_steps_is_told_so():
    results = judged(looped(train_step=lambda micro_batches: 1.0))
    assert names(results, "fail") == {"update.one_step_is_taken"}
    assert names(results, "error") == set()
    assert "never steps" in results["update.one_step_is_taken"].findings[0].headline


def test_a_loss_that_is_the_formula_by_a_draw_is_asked_again():
    """Mixup whose share is 1 in the first step: numpy draws it, and no layer does."""
    import numpy
    import torch
    from torch.nn.functional import cross_entropy

    def step(model: Any, optimizer: Any, scheduler: Any) -> Any:
        def train_step(micro_batches: list[Any]) -> float:
            total = 0.0
            for micro_batch in micro_batches:
                labels = micro_batch.pop("labels")
                logits = model(**micro_batch).logits
                share = 1.0 if numpy.random.rand() > 0.5 else 0.3
                own, other = (cross_entropy(logits, one) for one in (labels, labels.flip(0)))
                loss = (share * own + (1 - share) * other) / len(micro_batches)
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            return total

        return train_step

    pipeline = looped(step)
    numpy.random.seed(88)  # its first numbers are above a half
    report = run(pipeline, registry().select(["loss", "gradient"]))
    results = {result.check.name: result for result in report.results}
    assert names(results, "fail") == names(results, "error") == set()
    [finding] = results["loss.formula_is_known"].findings
    assert "draws random numbers of its own" in finding.headline


def test_a_loop_that_raises_is_an_error_and_is_taken_back():
    results = judged(looped(broken_in_the_second))
    # One exception is told once, by the check that first asks for the loop's steps.
    [told] = names(results, "error")
    assert "raised ValueError: the second step" in results[told].reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_step": 3}, "train_step is int"),
        ({"optimizer": None}, "optimizer is NoneType"),
        ({"train_dataset": None}, "there is no train_dataset"),
        ({"train_dataset": [{"input_ids": [1]}]}, "per_device_train_batch_size is 4"),
        ({"batch_size": 3}, "unexpected keyword argument 'batch_size'"),
        ({"train_step": lambda micro_batches: "done"}, "train_step returned str"),
    ],
)
def test_bad_input_is_one_sentence(changes, said):
    spec = PipelineSpec("loop", lambda: looped(**changes))
    with pytest.raises(UsageError) as error:
        judged(spec.make())
    assert said in str(error.value)
    assert "\n" not in str(error.value)
