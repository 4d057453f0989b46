"""Micro-batches that are asked again, of models that answer otherwise each time."""

from __future__ import annotations

import torch

from fixtures.faults import HEALTHY, healthy
from trainsanity.engine.registry import registry
from trainsanity.engine.runner import run
from trainsanity.measurements.step.own import UNSEEDED
from trainsanity.pipeline import Pipeline
from trainsanity.types import Status

LAWS = ("loss.logged_is_a_mean", "gradient.step_is_the_weighted_sum")
ROWS = {**HEALTHY, "gradient_accumulation_steps": 2}


def judged(trainer):
    report = run(Pipeline.from_trainer(trainer), registry().select(LAWS))
    return {result.check.name: result for result in report.results if result.check.name in LAWS}


def noisy(trainer, generator):
    """Hidden states get noise of a generator, as attention by random hashes does."""

    def add(module, inputs, output):
        return output + torch.randn(output.shape, generator=generator()) * 0.1

    trainer.model.model.norm.register_forward_hook(add)
    return trainer


def test_random_numbers_that_no_seed_reaches_are_no_lost_micro_batches():
    def fresh():
        generator = torch.Generator()
        generator.seed()
        return generator

    for result in judged(noisy(healthy(**ROWS), fresh)).values():
        assert result.status is Status.SKIP, result
        assert UNSEEDED in result.reason


def test_random_numbers_of_torchs_own_generator_are_asked_again():
    for result in judged(noisy(healthy(**ROWS), lambda: torch.default_generator)).values():
        assert result.status is Status.PASS, result


def test_an_override_that_takes_whatever_comes_is_called_as_the_loop_calls_it():
    """LLaMA-Factory's DPO hands everything on to the Trainer's own method."""
    trainer = healthy(**ROWS)
    cls = type(trainer)

    class HandsOn(cls):
        def get_batch_samples(self, *args, **kwargs):
            return cls.get_batch_samples(self, *args, **kwargs)

    trainer.__class__ = HandsOn
    for result in judged(trainer).values():
        assert result.status is Status.PASS, result
