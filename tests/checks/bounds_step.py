"""Measurements of loss, gradient, update, schedule and loop, moved to a share of their bound."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from tests.checks.bounds import case, expected
from trainsanity.checks.gradient.not_zero import FLOAT32
from trainsanity.checks.loop import eval_loss_is_a_mean, evaluates_in_eval_mode
from trainsanity.checks.schedule.peak_is_bearable import COIN, TWICE
from trainsanity.engine.session import objective_of
from trainsanity.maths.tolerances import (
    LOG_DECIMALS,
    MARGIN,
    REDUCTIONS,
    STANDARD_ERRORS,
    UNEVEN,
    logits_difference,
)
from trainsanity.measurements.model.raised import Precision
from trainsanity.measurements.runs.evaluated import Evaluated
from trainsanity.measurements.runs.evaluated_together import EvaluatedTogether
from trainsanity.measurements.runs.overfit import Overfit
from trainsanity.measurements.runs.resume import Ended, Resumed
from trainsanity.measurements.runs.saved import Saved
from trainsanity.measurements.runs.scored import EvaluatedBatch, Scored
from trainsanity.measurements.runs.trace import Plan, Trace
from trainsanity.measurements.step.bounds import head_gradient_floor, logged_loss_rounding
from trainsanity.measurements.step.directions import Trial
from trainsanity.measurements.step.next_tokens import NextTokens
from trainsanity.measurements.step.passes import Gap
from trainsanity.measurements.step.policy_passes import Policy
from trainsanity.measurements.step.reference_loss import reference

# Loss


@case("loss.initial_is_uninformed")
def other_labels_by_a_little(get, share):
    """Each row's own logit is lowered until the mean gap is the share of four standard errors."""
    forward, pipeline = get("forward"), get("pipeline")
    labels = torch.tensor(pipeline.train_dataset["label"])
    prior = torch.bincount(labels, minlength=forward.logits.shape[1]).double() / len(labels)
    own = torch.nn.functional.one_hot(forward.labels, len(prior)).double()

    def lowered(by):
        z = forward.logits - by * own
        known = (z * prior).sum(-1)
        variance = ((z * z * prior).sum(-1) - known**2).sum()
        gap = (known - (z * own).sum(-1)).mean()
        return z, float(gap - share * STANDARD_ERRORS * variance.sqrt() / len(z))

    low, high = -10.0, 10.0
    for _ in range(60):  # bisection: the gap grows with `by`, its error hardly
        middle = (low + high) / 2
        low, high = (middle, high) if lowered(middle)[1] < 0 else (low, middle)
    return {"forward": replace(forward, logits=lowered(low)[0])}


def of_first(recording, **changes):
    """The recording with another first step."""
    return replace(recording, steps=[replace(recording.steps[0], **changes), *recording.steps[1:]])


@case("loss.matches_reference")
def logged_loss(get, share):
    recording = get("recording")
    step = recording.first
    by = share * logged_loss_rounding(step.micro_steps)
    loss = reference(get("pipeline"), step).mean + by
    return {"recording": of_first(recording, logged={**step.logged, "loss": loss})}


@case("loss.train_equals_eval")
def evaluation_loss(get, share):
    evaluation = get("evaluation")
    by = share * logged_loss_rounding(evaluation.batches)
    return {"evaluation": replace(evaluation, loss=evaluation.reference - by)}


@case("loss.dtype")
def spread_of_a_coarse_loss(get, share):
    """A bfloat16 loss, and items whose mean is known just better, or just worse, than its steps."""
    recording = get("recording")
    step = recording.first
    losses = torch.cat([micro.items.losses for micro in step.micro_steps])
    mean = losses.mean()
    # bfloat16 has 8 significant bits: half a unit in the last place of a number in [4, 8).
    assert 4 < mean < 8
    half_unit = 2.0 ** (2 - 7) / 2
    # Below half a unit the items have one loss, and nothing is said.
    share = min(share, 0.9 * math.sqrt(len(losses)))
    narrower = half_unit / share / (losses.std() / math.sqrt(len(losses)))
    micros = [
        replace(
            micro,
            loss_dtype=torch.bfloat16,
            items=replace(micro.items, losses=mean + (micro.items.losses - mean) * narrower),
        )
        for micro in step.micro_steps
    ]
    return {"recording": of_first(recording, micro_steps=micros)}


EPS = 2.0**-23
"""Unit in the last place of float32."""
PART = MARGIN * EPS + REDUCTIONS
"""What is rounded in a loss, or a gradient, that is asked again: relative."""


@case("loss.logged_is_a_mean")
def logged_above_the_largest(get, share):
    recording = get("recording")
    high = max(recording.own.losses)
    loss = high + share * (LOG_DECIMALS + PART * high)
    return {"recording": of_first(recording, logged={**recording.first.logged, "loss": loss})}


@case("loss.logged_is_a_mean")
def logged_below_the_smallest(get, share):
    recording = get("recording")
    low, high = min(recording.own.losses), max(recording.own.losses)
    loss = low - share * (LOG_DECIMALS + PART * high)
    return {"recording": of_first(recording, logged={**recording.first.logged, "loss": loss})}


def rearranged(get, **changes):
    recording = get("recording")
    return {"recording": replace(recording, rearranged=replace(recording.rearranged, **changes))}


@case("loss.rows_in_any_order")
def loss_of_turned_rows(get, share):
    return rearranged(get, loss=5.0, turned=5.0 * (1 + share * PART))


@case("loss.labels_matter")
def gradient_with_exchanged_labels(get, share):
    return rearranged(get, relabelled=PART / share)


@case("loss.adds_up")
def loss_of_rows_together(get, share):
    high = 6.0
    return rearranged(get, alone=[4.0, 5.0, high], together=high * (1 + share * PART))


GAP = Gap(size=0.0, total=0.0, scale=4.0, tokens=20)


def apart(share):
    """Log-probabilities so far apart; their size is the scale of what rounds."""
    return replace(GAP, size=share * PART * GAP.scale, total=share * PART * GAP.scale)


@case("loss.reference_is_the_policy")
def policy_and_reference(get, share):
    gap = apart(share)
    return {"policy": Policy(name="ref_model", gap=gap, quiet=gap, noise=GAP, eps=EPS)}


@case("loss.ratio_is_one")
def policy_and_its_old_self(get, share):
    gap = apart(share)
    return {"policy": Policy(stored={"old_logps": (gap, gap)}, restless=GAP, eps=EPS)}


@case("loss.padding_does_not_matter")
def loss_with_other_padding(get, share):
    padding = (5.0, 5.0 * (1 + share * PART))
    return {"policy": Policy(padding=padding, pulled=0.0, padded=3, eps=EPS)}


@case("loss.padding_does_not_matter")
def gradient_with_other_padding(get, share):
    pulled = share * MARGIN * PART
    return {"policy": Policy(padding=(5.0, 5.0), pulled=pulled, padded=3, eps=EPS)}


# Gradient


def of_own(get, weights, **changes):
    """Weights of micro-batches that are known to a tenth of a thousandth."""
    recording = get("recording")
    own = recording.own
    changes = {"residual": 0.0, "condition": 1.0, **changes}
    own = replace(own, weights=weights, errors=[1e-4] * len(weights), eps=EPS, **changes)
    return {"recording": replace(recording, own=own)}


def known_sum(count):
    """How far a sum of as many weights may be from 1."""
    return PART + STANDARD_ERRORS * 1e-4 * math.sqrt(count)


@case("gradient.step_is_the_weighted_sum")
def sum_of_the_weights(get, share):
    return of_own(get, [(1 + share * known_sum(2)) / 2] * 2)


@case("gradient.step_is_the_weighted_sum")
def weight_of_one(get, share):
    """Nearly 0 of what the other weighs, and 1 together."""
    lost = (known_sum(2) + STANDARD_ERRORS * 1e-4 * 2) / share
    return of_own(get, [lost / 2, 1 - lost / 2])


@case("gradient.step_is_the_weighted_sum")
def remainder(get, share):
    floor = MARGIN * EPS * math.sqrt(2) + REDUCTIONS
    return of_own(get, [0.5, 0.5], residual=share * floor)


@case("gradient.not_zero")
def norm_of_what_cancels(get, share):
    recording = get("recording")
    norm = MARGIN * FLOAT32 * recording.first.logged["loss"] / share
    return {"recording": of_first(recording, norm_before_clip=norm)}


def floor(get):
    """Exact head gradient, and what rounding explains in slope and cosine."""
    pipeline, step = get("pipeline"), get("recording").first
    right, objective = reference(pipeline, step), objective_of(pipeline)
    exact = sum(
        weight * (objective.residual(part.logits, part.targets).T @ part.vectors.double())
        for part, weight in zip(right.parts, right.weights, strict=True)
    )
    return exact, *head_gradient_floor(objective, right, torch.float32, exact)


@case("gradient.head_closed_form")
def slope(get, share):
    exact, off_scale, _ = floor(get)
    gradient = (exact * (1 + share * off_scale)).float()
    return {"recording": of_first(get("recording"), head_gradient=gradient)}


@case("gradient.head_closed_form")
def cosine(get, share):
    exact, _, off_axis = floor(get)
    aside = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0)).double()
    aside -= exact * (aside * exact).sum() / exact.square().sum()
    tangent = math.sqrt(1 / (1 - share * off_axis) ** 2 - 1)
    gradient = (exact + aside * (tangent * exact.norm() / aside.norm())).float()
    return {"recording": of_first(get("recording"), head_gradient=gradient)}


NORM = EPS + REDUCTIONS
"""Rounding of a norm of float32 gradients."""


def with_norm(get, norm):
    recording = get("recording")
    logged = {**recording.first.logged, "grad_norm": norm}
    return {"recording": of_first(recording, norm_before_clip=norm, logged=logged)}


@case("gradient.norm_within_bounds")
def norm_above(get, share):
    at_most = expected(get, "gradient.norm_within_bounds")["at_most"]
    return with_norm(get, at_most * share)


@case("gradient.norm_within_bounds")
def norm_below(get, share):
    at_least = expected(get, "gradient.norm_within_bounds")["at_least"]
    return with_norm(get, at_least / share)


@case("gradient.norm_within_bounds")
def norm_that_is_logged(get, share):
    recording = get("recording")
    norm = recording.first.norm_before_clip * (1 + share * NORM)
    return {"recording": of_first(recording, logged={**recording.first.logged, "grad_norm": norm})}


@case("gradient.clipping")
def norm_that_is_left(get, share):
    left = expected(get, "gradient.clipping")["norm_after"] * (1 + share * NORM)
    return {"recording": of_first(get("recording"), norm_after_clip=left)}


@case("gradient.clipping")
def share_that_is_kept(get, share):
    """Both steps are as long as a clip to a hundredth, or to just less, makes them."""
    recording = get("recording")
    limit = get("pipeline").args.max_grad_norm
    steps = []
    for step in recording.steps:
        norm = limit / 0.01 * share
        # The micro-batches' own gradients are as long, and the head's has the right size.
        micros = [replace(micro, gradient_norm=100 * norm) for micro in step.micro_steps]
        steps.append(
            replace(step, micro_steps=micros, norm_before_clip=norm, norm_after_clip=limit)
        )
    return {"recording": replace(recording, steps=steps)}


@case("gradient.matches_autograd")
def one_gradient(get, share):
    recording, replay = get("recording"), get("replay")
    name = "model.norm.weight"
    off = share * (MARGIN * replay.noise[name] + replay.common + REDUCTIONS)
    gradients = {**recording.gradients, name: replay.gradients[name] * (1 + off)}
    return {"recording": replace(recording, gradients=gradients)}


@case("gradient.checkpointing_is_exact")
def one_gradient_computed_again(get, share):
    replay = get("replay")
    off = {name: share * (MARGIN * noise + REDUCTIONS) for name, noise in replay.noise.items()}
    return {"replay": replace(replay, checkpointing=off)}


# Update, schedule


@case("update.survives_rounding")
def half_of_the_elements(get, share):
    recording = get("recording")
    update = recording.update
    elements = 100_000
    moved = round(elements * 0.5 / share)  # outside is fewer
    peak = Trial(None, update.rate, {"float32": (elements, moved, elements)})
    return {"recording": replace(recording, update=replace(update, trials=[peak]))}


@case("schedule.peak_is_reached")
def peak(get, share):
    schedule, asked = get("schedule"), get("pipeline").args.learning_rate
    # The ninth decimal, as the docstring says.
    top = asked * (1 - share * 1e-9)
    curve = {step: min(rate, top) for step, rate in schedule.curve.items()}
    return {"schedule": replace(schedule, curve=curve)}


@case("schedule.learning_rate_follows")
def next_rate(get, share):
    recording = get("recording")
    rate = recording.next_learning_rate * (1 + share * 1e-9)
    return {"recording": replace(recording, next_learning_rate=rate)}


# Loop: what a run ends with, without the run


@case("loop.overfits_one_batch")
def loss_at_the_end(get, share):
    constant = math.log(4)  # the entropy of four labels that differ
    return {"overfit": Overfit(constant, 4, "rows", losses=[5.6, share * constant / 2])}


@case("loop.save_load_equal")
def logits_that_are_loaded(get, share):
    allowed = logits_difference(torch.float32, 1e-7, 2.0)
    difference = share * allowed
    return {
        "saved": Saved(
            ["model"], difference=difference, noise=1e-7, size=2.0, dtype=torch.float32, rows=4
        )
    }


@case("loop.resume_equals_straight")
def weights_of_the_resumed(get, share):
    noise = 1e-6
    trace = Trace(batches={2: ["a"], 3: ["b"]})
    difference = share * MARGIN * noise
    return {
        "resumed": Resumed(Plan(2, 4, 9), trace, Ended(trace), difference=difference, noise=noise)
    }


@case("loop.eval_leaves_training_alone")
def weights_after_an_evaluation(get, share):
    noise = 1e-6
    random = [({"torch": "a"}, {"torch": "b"}), ({"torch": "c"}, {"torch": "d"})]
    seen = Evaluated(Plan(2, 4, 9), Trace(), Trace(), {}, {}, random, share * MARGIN * noise, noise)
    return {"evaluated": seen}


@case("loop.eval_loss_is_a_mean")
def evaluation_beside_every_mean(get, share):
    rounded = (eval_loss_is_a_mean.ROUNDED + REDUCTIONS) * 2.0
    batches = [EvaluatedBatch(1.0, 4, 4), EvaluatedBatch(2.0, 2, 2)]
    mean = (4 * 1.0 + 2 * 2.0) / 6
    return {"scored": Scored({"eval_loss": mean + share * rounded}, batches=batches, rows=6)}


@case("loop.eval_loss_is_a_mean")
def weight_of_a_token(get, share):
    longer = round(1000 * UNEVEN * share)
    batches = [EvaluatedBatch(1.0, 4, 1000), EvaluatedBatch(2.0, 4, longer)]
    return {"scored": Scored({"eval_loss": 1.5}, batches=batches, rows=8)}


@case("loop.evaluates_in_eval_mode")
def loss_with_other_random_numbers(get, share):
    draws = [5.0, 5.0, 5.0 * (1 + share * evaluates_in_eval_mode.ROUNDED)]
    return {"scored": Scored(draws=draws, rows=6)}


@case("loop.evaluates_in_eval_mode")
def loss_on_a_noisy_device(get, share):
    noise = 1e-3
    return {"scored": Scored(draws=[5.0, 5.0 + noise, 5.0 + share * MARGIN * noise], rows=6)}


@case("loss.next_token_is_unseen")
def sight_of_the_next_token(get, share):
    blind = NextTokens(5, 0.0, 2.0, 4.0, Precision("whole", torch.float32))
    return {"next_tokens": replace(blind, moved=share * blind.allowed)}


@case("schedule.peak_is_bearable")
def loss_behind_the_peak(get, share):
    recording = get("recording")
    before = max(recording.own.losses[0], COIN)
    return {"recording": replace(recording, peak_loss=share * TWICE * before)}


@case("loop.ranks_evaluate_together")
def evaluation_of_several_processes(get, share):
    seen = EvaluatedTogether("eval_loss", 9, 1.0, 1.0, 3.0, [], repeated=0.5)
    below = seen.expected - share * seen.allowed
    return {"evaluated_together": replace(seen, together=[below, below])}
