"""A reward function that ends the training is named in one sentence; others are left alone."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from trainsanity.errors import UsageError
from trainsanity.measurements.batches.rewards import unusable, usable_rewards


class Policy:
    """Scores as TRL's Trainers do."""

    def __init__(self, function):
        self.reward_funcs, self.reward_func_names = [function], ["graded"]

    def _calculate_rewards(self, completions):
        rewards = [f(completions=completions) for f in self.reward_funcs]
        return [[math.nan if one is None else float(one) for one in made] for made in rewards]


def score(function, completions=("a", "b")):
    trainer = Policy(function)
    with usable_rewards(trainer):
        made = trainer._calculate_rewards(completions)
    assert trainer.reward_funcs == [function]
    assert "_calculate_rewards" not in vars(trainer)
    return made


def raising(completions):
    raise KeyError("answer")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda completions: None, "returned None in the place of its rewards"),
        (lambda completions: 1.0, "returned a float in the place of a list"),
        (lambda completions: ["good", "bad"], "returned a str ('good') as a reward"),
        (raising, "raised KeyError: 'answer'"),
    ],
)
def test_what_no_training_survives_is_one_sentence(function, words):
    with pytest.raises(UsageError) as refused:
        score(function)
    assert f"the reward function 'graded' {words}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rewards_that_can_be_used_are_left_alone():
    assert score(lambda completions: [None, 2])[0][1] == 2
    assert score(lambda completions: numpy.ones(2)) == [[1, 1]]


@pytest.mark.parametrize(
    "made", [[1, 2.0], [None, math.nan], numpy.ones(2), torch.ones(2), (True, False)]
)
def test_numbers_and_none_are_rewards(made):
    assert not unusable(made, 2)


def test_too_few():
    assert unusable([1.0], 2) == "1 rewards for 2 completions"


def test_an_error_of_the_trainers_own_stays_what_it_is():
    class Broken(Policy):
        def _calculate_rewards(self, completions):
            super()._calculate_rewards(completions)
            raise ZeroDivisionError

    trainer = Broken(lambda completions: [1, 2])
    with usable_rewards(trainer), pytest.raises(ZeroDivisionError):
        trainer._calculate_rewards(["a", "b"])
