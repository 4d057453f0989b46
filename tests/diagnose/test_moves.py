"""Where a log's losses go: down, nowhere, up, or away."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from trainsanity.diagnose.case import Case, Known
from trainsanity.diagnose.entries import Log, entry_of
from trainsanity.diagnose.questions import ask
from trainsanity.types import Result, Status

MOVES, FACTOR = "update.moves_the_right_ones", "loss.matches_reference"


def log_of(losses: Iterable[float], every: int = 10, **more: Any) -> Log:
    """A log with an entry every so many steps."""
    log = Log("made")
    for k, loss in enumerate(losses):
        entry = entry_of({"step": every * k + 1, "loss": loss, **more}, f"line {k}")
        assert entry is not None
        log.add(entry)
    return log.closed()


def judged(log: Log, name: str = MOVES, **known: Any) -> Result:
    return next(r for r in ask(Case(log, Known(**known))).results if r.check.name == name)


def noisy(mean: Callable[[int], float], count: int = 60, spread: float = 0.1) -> list[float]:
    rng = random.Random(7)
    return [mean(k) * rng.lognormvariate(0, spread) for k in range(count)]


@pytest.mark.parametrize(
    "losses",
    [
        [1.40, 35.1, 120.0, 290.0],
        [1.40, 290.0, 310.0, 250.0, 405.0, 290.0, 333.0, 290.0],
        noisy(lambda k: 1.4 * 1.1**k),
        noisy(lambda k: 1.4 if k < 20 else 290.0, spread=0.5),
    ],
    ids=["four steps", "at once", "slowly", "late"],
)
def test_a_run_that_diverges(losses: list[float]) -> None:
    result = judged(log_of(losses, learning_rate=10.0), learning_rate=10.0)
    assert result.status is Status.FAIL
    (finding,) = result.findings
    assert finding.headline.startswith(f"the loss diverges: {losses[0]:.4g} at step 1, ")
    assert "a learning rate (10) that is far too high" in (finding.cause or "")
    assert "little movement" not in result.message


def test_a_run_that_diverges_is_not_held_against_its_evaluation() -> None:
    """Of a loss that falls from 250 within an epoch, the mean lies far above the evaluation."""
    log = Log("made")
    losses = [1.393, 279.3, 266.8, 203.3, 283.1, 138.3, 135.8, 86.28, 91.16]
    for k, loss in enumerate(losses):
        step = 5 * k or 1
        rows = [{"step": step, "loss": loss, "learning_rate": 10.0 - k}]
        if k in (4, 8):
            rows.append({"step": step + 2, "eval_loss": loss / 6.5})
        for row in rows:
            entry = entry_of(row, f"step {row['step']}")
            assert entry is not None
            log.add(entry)
    report = ask(Case(log.closed(), Known(num_labels=4)))
    failed = {r.check.code: r for r in report.results if r.status is Status.FAIL}
    assert [*failed] == ["TS703"]
    # 112.9 stands nowhere in the log: it is said what it is.
    assert failed["TS703"].findings[0].headline == (
        "the loss diverges: 1.393 at step 1, 112.9 on average in the last 4 entries, 81 times as "
        "much"
    )
    (scale,) = [r for r in report.results if r.check.code == "TS502"]
    assert scale.status is Status.SKIP
    assert "the loss diverges" in scale.reason


def test_a_run_that_had_diverged_before_its_first_entry() -> None:
    losses = noisy(lambda k: 250.0 - 2 * k)
    result = judged(log_of(losses, learning_rate=9.4))
    assert result.status is Status.WARNING
    (finding,) = result.findings
    assert "at a learning rate of up to 9.4: even of 1,000,000 classes" in finding.headline
    # A sum over tokens may be so large, and at the rates of Adam nothing is said of it.
    assert judged(log_of(losses, learning_rate=1.0)).status is Status.PASS
    assert judged(log_of(losses, learning_rate=9.4), num_labels=1).status is Status.PASS


def test_few_classes_tell_sooner() -> None:
    losses = noisy(lambda k: 1.4 if k < 12 else 4.0)
    assert judged(log_of(losses)).status is Status.WARNING
    assert judged(log_of(losses), num_labels=4).status is Status.FAIL


@pytest.mark.parametrize(
    ("losses", "known"),
    [
        (noisy(lambda k: 1.4 * 0.97**k), {}),
        # One row a step: the first was easy.
        ([0.01, *noisy(lambda k: 1.2, spread=0.8)], {"num_labels": 4}),
        ([0.01, *noisy(lambda k: 1.2 - 0.01 * k, spread=0.8)], {}),
        # A policy's loss is 0 by nature, and grows with the distance from the reference.
        (noisy(lambda k: 0.0005 * k), {}),
        ([random.Random(k).gauss(0, 0.01) for k in range(60)], {}),
        # Sums over many tokens are large, and fall.
        (noisy(lambda k: 2000 - 10 * k), {}),
        # A regression's loss has the scale of its labels.
        ([4.0, 30.0, 25.0, *noisy(lambda k: 22.0, spread=0.4)], {"num_labels": 1}),
        # Twelve times the loss is another question's finding.
        (noisy(lambda k: 68 - 0.5 * k), {"num_labels": 280}),
    ],
    ids=["falls", "lucky of 4", "lucky", "policy", "centred", "sum", "regression", "factor"],
)
def test_healthy_runs_go_nowhere_else(losses: list[float], known: dict[str, Any]) -> None:
    assert judged(log_of(losses), **known).status is Status.PASS


def test_a_loss_that_rises_is_a_warning() -> None:
    result = judged(log_of(noisy(lambda k: 1.4 + 0.01 * k, spread=0.05)))
    assert result.status is Status.WARNING
    assert result.findings[0].headline.endswith("it rises by more than its noise")


@pytest.mark.parametrize(
    ("losses", "status"),
    [
        # Learning rate 10 with SGD, logged each fifth step: at the second entry it is lost already.
        ([1.386, 8.6, 23.5, 19.1, 28.1, 21.9, 13.0, 21.1, 8.4, 7.3, 4.8, 2.9], Status.WARNING),
        ([1.386, 2.1, 1.9, 2.4, 1.7, 2.2, 1.8, 2.0, 1.9, 2.1], Status.PASS),
        # One row in hundred is hard, and the first was easy.
        ([0.7, *noisy(lambda k: 2.2, 9, spread=0.8)], Status.PASS),
    ],
)
def test_a_loss_that_leaves_its_first_value_at_once(losses: list[float], status: Status) -> None:
    result = judged(log_of(losses, every=5))
    assert result.status is status
    if result.findings:
        assert result.findings[0].headline.startswith("the loss rises: 1.386 at step 1, ")
        assert "--num-labels" in (result.findings[0].cause or "")
    assert judged(log_of(losses, every=5), num_labels=1).status is not Status.WARNING


@pytest.mark.parametrize("rate", [{"learning_rate": 1e-5}, {}], ids=["rate logged", "no rate"])
def test_a_loss_that_stands_still_is_a_warning(rate: dict[str, float]) -> None:
    result = judged(log_of(noisy(lambda k: 5.63, spread=0.02), **rate))
    assert result.status is Status.WARNING
    assert "it stands still within its noise" in result.findings[0].headline
    # Too early to tell.
    early = log_of(noisy(lambda k: 5.63, spread=0.02), every=1, **rate)
    assert judged(early).status is Status.PASS


def evaluated(ratios: list[float]) -> Log:
    log = Log("made")
    for k, ratio in enumerate(ratios):
        for values in ({"loss": ratio * 1.45}, {"eval_loss": 1.45}):
            entry = entry_of({"step": 100 * (k + 1), **values}, f"line {k}")
            assert entry is not None
            log.add(entry)
    return log.closed()


@pytest.mark.parametrize(
    ("ratios", "status"),
    [
        ([3.78], Status.FAIL),
        ([3.78, 3.9, 3.6], Status.FAIL),
        # It falls as the rows become known, and stays above 2.
        ([4.1, 3.78, 3.1, 2.6], Status.WARNING),
        # The first mean is over steps in which the loss fell.
        ([4.0, 1.1, 1.0], Status.PASS),
        ([1.2, 1.0, 0.8], Status.PASS),
    ],
)
def test_a_factor_over_the_evaluation_without_being_told(
    ratios: list[float], status: Status
) -> None:
    result = judged(evaluated(ratios), FACTOR)
    assert result.status is status
    if result.findings:
        assert "accumulation x processes that are not divided out" in str(result.findings[0].cause)
