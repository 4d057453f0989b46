"""Preference losses against their documented formulas, with TRL's own Trainers."""

from __future__ import annotations

import copy
import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("trl")

from fixtures.controls import all_controls
from fixtures.controls.preferences import (
    FEW,
    liked_trainer,
    odds_trainer,
    preference_trainer,
    with_the_prompt_counted,
)
from trainsanity.measurements.step.preference import Preference, ask_preference
from trainsanity.objectives.preference_formulas import PAIRED, PROMPT

SMOOTHED = {
    name: {"label_smoothing": 0.1} for name in ("exo_pair", "robust", "aot", "aot_unpaired")
}

CONFIRMED: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    **{
        name: (preference_trainer, {"loss_type": name, **SMOOTHED.get(name, {})}) for name in PAIRED
    },
    "several": (
        preference_trainer,
        {"loss_type": ["sigmoid", "sft", "bco_pair"], "loss_weights": [1.0, 0.3, 0.2]},
    ),
    "large beta": (preference_trainer, {"beta": 2.0}),
    "small beta": (preference_trainer, {"beta": 0.01, "loss_type": "ipo"}),
    "kto": (liked_trainer, {}),
    "kto by sides": (liked_trainer, {"desirable_weight": 1.3}),
    "apo_zero_unpaired": (liked_trainer, {"loss_type": "apo_zero_unpaired"}),
    "orpo": (odds_trainer, {}),
    "orpo by the odds": (odds_trainer, {"beta": 0.5}),
}

UNCOVERED: dict[str, dict[str, Any]] = {
    "ld_alpha": {"ld_alpha": 0.5},
    "use_weighting": {"use_weighting": True},
    "f_divergence_type=js_divergence": {"f_divergence_type": "js_divergence"},
    "f_divergence_type=forward_kl": {"f_divergence_type": "forward_kl"},
    "f_divergence_type=alpha_divergence": {"f_divergence_type": "alpha_divergence"},
}


@functools.cache
def _built(make: Callable[..., Any]) -> Any:
    """Return one Trainer of a kind: building takes longer than all that is asked of it."""
    plain = next(control for control in all_controls() if control.id == "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(plain.build(**FEW))


def _set(make: Callable[..., Any], **changes: Any) -> Any:
    """Return a Trainer with these settings, where TRL's Trainers keep them."""
    trainer = copy.copy(_built(make))
    trainer.args = copy.copy(trainer.args)
    for name, value in changes.items():
        setattr(trainer.args, name, value)
        if hasattr(trainer, name):
            setattr(trainer, name, value)
    if make is preference_trainer:
        kinds = changes.get("loss_type", "sigmoid")
        trainer.loss_types = [kinds] if isinstance(kinds, str) else kinds
        trainer.loss_weights = changes.get("loss_weights", [1.0] * len(trainer.loss_types))
    return trainer


def _asked(make: Callable[..., Any], **changes: Any) -> Preference:
    return _of(_set(make, **changes))


def _of(trainer: Any) -> Preference:
    rows = [trainer.train_dataset[k] for k in range(4)]
    return ask_preference(trainer, trainer.data_collator(rows), rows)


@pytest.mark.matrix
@pytest.mark.parametrize("name", CONFIRMED)
def test_trl_computes_the_formula(name: str) -> None:
    """Value and gradient of TRL's loss are the formula's at both places."""
    make, changes = CONFIRMED[name]
    found = _asked(make, **changes)
    assert not found.reason
    assert len(found.points) == 2
    assert all(point.agrees for point in found.points), found.points


@pytest.mark.parametrize("name", UNCOVERED)
def test_what_no_formula_covers_is_not_asked(name: str) -> None:
    """A setting that changes the formula is the reason why nothing is compared."""
    found = _asked(preference_trainer, **UNCOVERED[name])
    assert not found.points
    assert name.partition("=")[0] in found.reason


def test_every_loss_type_of_trl_is_known() -> None:
    """The installed TRL names no loss_type that has no formula here."""
    import trl

    source = inspect.getsource(trl.DPOTrainer._compute_loss)
    assert {*re.findall(r'loss_type == "(\w+)"', source)} <= {*PAIRED}


def test_weights_are_put_back() -> None:
    """The weights are the same bit for bit, and no gradient is left."""
    trainer = _set(preference_trainer)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert _of(trainer).points
    assert all(bool((before[n] == v).all()) for n, v in trainer.model.state_dict().items())
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize(("kind", "cancels"), [("sigmoid", True), ("ipo", False), ("hinge", True)])
def test_prompt_cancels_in_sums_alone(kind: str, cancels: bool) -> None:
    """The prompt's tokens cancel in a margin of sums, and not in one of means."""
    found = _of(with_the_prompt_counted(_set(preference_trainer, loss_type=kind)))
    assert [point.agrees for point in found.points] == [cancels] * 2
    assert cancels or all(point.mistakes == (PROMPT,) for point in found.points)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo", "bco_pair", "sppo_hard"])
def test_beta_is_found(kind: str) -> None:
    """A loss with ten times the beta of the arguments is the formula at that beta."""
    trainer = _set(preference_trainer, loss_type=kind)
    trainer.beta *= 10
    found = _of(trainer)
    assert found.settings is not None
    for point in found.points:
        assert not point.agrees
        assert point.beta / found.settings.beta == pytest.approx(10, rel=1e-3)


def test_a_side_without_gradient_shows_in_the_gradient_alone() -> None:
    """The value is right where the rejected answer is detached, and the gradient is not."""
    import torch

    trainer = _set(preference_trainer)
    base = type(trainer).compute_loss

    def compute_loss(model: Any, inputs: Any, **kwargs: Any) -> Any:
        loss = base(trainer, model, inputs, **kwargs)
        return loss.detach() + (loss - loss.detach()) * torch.tensor(0.5)

    trainer.compute_loss = compute_loss
    for point in _of(trainer).points:
        assert point.loss == pytest.approx(point.expected, rel=1e-5)
        assert point.slope == pytest.approx(0.5, rel=1e-3)
        assert not point.agrees
