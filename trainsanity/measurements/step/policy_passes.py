"""Outputs of policy and reference on the same tokens, seen while the user's loss is computed.

A reference is a model that the user calls so (``trainer.ref_model``, ``self.reference``, a variable
``ref_policy`` of the training loop), or for an adapter of TRL's Trainers the same model with the
adapter turned off.  Nothing is asked of it directly: the passes that ``compute_loss`` makes are
watched, with whatever contexts it sets around them.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.errors import first_line
from trainsanity.isolation.snapshot import restored
from trainsanity.measurements.batches.other_padding import (
    labelled_padding,
    more_padding,
    other_padding,
)
from trainsanity.measurements.step.passes import Gap, Pass, gap_between, inner, passes_seen
from trainsanity.measurements.step.rearranged import layers_in_eval
from trainsanity.measurements.step.reference_role import Role, role_of
from trainsanity.objectives.preference import (
    POLICY_TRAINERS,
    PREFERENCE_TRAINERS,
    has_pairs,
    of_classes,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

REFERENCE = re.compile(r"(^|_)ref(erence)?s?(_|$)|(^|_)sft_model$", re.IGNORECASE)
STORED = re.compile(r"(^|_)(old|ref|reference)_.*log_?p", re.IGNORECASE)
"""Names under which a prepared batch keeps log-probabilities that were computed before."""


SMALL = 0.02
"""Standard deviation that a matrix of zeros is changed by: that of a new layer."""

SAME = 1e-4
"""Part of a loss that it may change by, and still be a ratio of 1 times the advantages: ``exp`` of
a difference that is 0 is exactly 1, so this is rounding alone."""


@dataclass
class Policy:
    """Policy and reference at the weights that the pipeline came with.

    Attributes:
        name: what the user calls the reference; empty if there is none.
        reference: the model; None for an adapter that is turned off, or stored values.
        gap: between policy and reference in training mode.
        quiet: the same with every layer in eval mode.
        noise: between two passes of the reference that differ in random numbers alone.
        restless: the same of the policy.
        stored: by name, between the policy and what the batch brings along for the same tokens,
            in training mode and with every layer in eval mode.
        brought: names of all log-probabilities that the batch brings along.
        unread: of those what the loss does not read, which has another gradient than zero and keeps
            its value when the policy's weights change: the policy is compared with itself.
        padding: the loss as it is, and with other token ids under the padding.
        pulled: norm of the change that these make to the gradient, relative to it; None if it was
            not asked, or is zero.  Where policy and reference are the same a preference loss is a
            constant, and only this shows.
        padded: how many positions are padding.
        widened: the other padding is more of the same, and no other ids.
        labelled: how many of them have a label that the loss counts.
        declared: TRL's Trainer, or pairs of answers, say what the reference is for.
        role: what it is for by the loss, where nothing says so; None if that is not known.
        eps: unit in the last place of the coarsest dtype in use.
        reason: why nothing was asked; empty if it was.
    """

    name: str = ""
    reference: Any = None
    gap: Gap = field(default_factory=Gap)
    quiet: Gap = field(default_factory=Gap)
    noise: Gap = field(default_factory=Gap)
    restless: Gap = field(default_factory=Gap)
    stored: dict[str, tuple[Gap, Gap]] = field(default_factory=dict)
    brought: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    padding: tuple[float, float] = (math.nan, math.nan)
    pulled: float | None = None
    padded: int = 0
    widened: bool = False
    labelled: int = 0
    declared: bool = True
    role: Role | None = None
    eps: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class Asker:
    """How loss and gradient of a batch are asked.

    Attributes:
        ask: computes the loss, and returns the passes in it beside it.
        gradient: returns a sample of the gradient, with the same random numbers each time.
    """

    ask: Callable[..., tuple[list[Pass], float]]
    gradient: Callable[[dict[str, Any]], Tensor]


def references_of(trainer: Any, step: Callable[..., Any] | None) -> dict[str, nn.Module]:
    """Return the models that the user calls a reference, by name."""
    named = dict(vars(trainer)) if trainer is not None else _variables(step)
    import torch

    return {
        name: inner(value)
        for name, value in named.items()
        if REFERENCE.search(name) and isinstance(value, torch.nn.Module)
    }


def _variables(function: Any, depth: int = 3) -> dict[str, Any]:
    """Return what a function refers to by name: its closure, globals, and attributes of self."""
    if isinstance(function, functools.partial):
        return {**_variables(function.func, depth), **function.keywords}
    owner = getattr(function, "__self__", None)
    found = dict(getattr(owner, "__dict__", {}))
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return found
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        with contextlib.suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    for name in code.co_names:
        if name in function.__globals__:
            found.setdefault(name, function.__globals__[name])
    if depth:
        for value in list(found.values()):
            if callable(value) and hasattr(value, "__code__"):
                found = {**_variables(value, depth - 1), **found}
    return found


def ask_policy(
    trainer: Any, inputs: Any, gradient: Callable[[dict[str, Any]], Tensor], eps: float
) -> Policy:
    """Watch the loss of a prepared micro-batch being computed, several times.

    Args:
        trainer: the user's, in the middle of its first step.
        inputs: what ``compute_loss`` was given.
        gradient: returns a sample of the gradient of a batch.
        eps: unit in the last place of the coarsest dtype in use.
    """

    def ask(given: Mapping[str, Any], *, seed: int, evaluating: bool) -> tuple[list[Pass], float]:
        import torch

        context = layers_in_eval(trainer) if evaluating else contextlib.nullcontext()
        with context, restored([trainer, trainer.state, trainer.control]):
            torch.manual_seed(seed)
            with passes_seen() as seen, trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(trainer.model_wrapped, dict(given))
            loss = loss[0] if isinstance(loss, tuple) else loss
            return seen, float(loss.detach())

    found = Policy(eps=eps)
    if not isinstance(inputs, Mapping):
        found.reason = "the batch is no dictionary"
        return found
    named = references_of(trainer, None)
    switched = of_classes(trainer, PREFERENCE_TRAINERS + POLICY_TRAINERS) or has_pairs(inputs)
    compare(found, inner(trainer.model), named, inputs, Asker(ask, gradient), switched=switched)
    return found


def compare(
    found: Policy,
    policy: Any,
    named: Mapping[str, Any],
    inputs: Mapping[str, Any],
    asker: Asker,
    *,
    switched: bool,
) -> None:
    """Fill in what the passes inside the loss show.

    Args:
        found: to be filled.
        policy: the model that is trained.
        named: models that the user calls a reference.
        inputs: the prepared batch.
        asker: computes loss and gradient of a batch.
        switched: whether a pass of the policy without gradient is its reference.
    """
    stored = [name for name in inputs if STORED.search(name) and "KL" not in name]
    found.widened = not _is_causal(policy)
    change = more_padding if found.widened else other_padding
    changed, found.padded = change(inputs)
    found.labelled = labelled_padding(inputs)
    if not (named or switched or stored or changed):
        return
    ask = asker.ask
    try:
        quiet, loss = ask(inputs, seed=0, evaluating=True)
        if changed is not None:
            found.padding = (loss, ask(changed, seed=0, evaluating=True)[1])
        if changed is not None and not found.widened:
            _pulled_by_padding(found, inputs, changed, asker)
        if not (named or switched or stored):
            return
        train, _ = ask(inputs, seed=0, evaluating=False)
        again, _ = ask(inputs, seed=1, evaluating=False)
        found.brought = stored
        found.unread = _unread(policy, stored, inputs, loss, asker)
    except Exception as error:
        found.reason = f"asked again it raised {type(error).__name__}: {first_line(error)}"
        return
    wanted = {id(module): name for name, module in named.items()}

    def is_reference(one: Pass) -> bool:
        if one.module is policy or id(one.module) not in wanted:
            return switched and one.module is policy and not one.graded
        return True

    found.gap = _between(train, train, policy, is_reference)
    found.quiet = _between(quiet, quiet, policy, is_reference)
    found.noise = _alike(*([p for p in seen if is_reference(p)] for seen in (train, again)))
    found.restless = _alike(
        *([p for p in seen if p.module is policy and p.graded] for seen in (train, again))
    )
    for one in train:
        if is_reference(one):
            found.reference = None if one.module is policy else one.module
            found.name = wanted.get(id(one.module), "the adapter turned off")
            break
    found.declared = switched
    others = [module for module in named.values() if module is not policy]
    if others and not switched and found.gap.size > 0:
        with contextlib.suppress(Exception):  # a loss that takes no made-up logits
            found.role = role_of(lambda: ask(inputs, seed=0, evaluating=True)[1], policy, others)
    for name in stored:
        gaps = [_to_stored(seen, policy, name, inputs) for seen in (train, quiet)]
        if not math.isnan(gaps[0].size):
            found.stored[name] = (gaps[0], gaps[1])


def _pulled_by_padding(
    found: Policy, inputs: Mapping[str, Any], changed: Mapping[str, Any], asker: Asker
) -> None:
    """Note how far other ids under the padding move the gradient.

    A loss may look for some words in its rows, and find them among the new ones.  Padding that is
    counted is counted whatever it is: the smaller change of two is noted, the second time with one
    id for all of it.
    """
    before = asker.gradient(dict(inputs)).double()
    if (norm := float(before.norm())) == 0:
        return
    found.pulled = float((asker.gradient(dict(changed)).double() - before).norm()) / norm
    alike, _ = other_padding(inputs, alike=True)
    if alike is None or not found.pulled:
        return
    moved = float((asker.gradient(dict(alike)).double() - before).norm()) / norm
    if moved < found.pulled:
        found.pulled = moved
        found.padding = (found.padding[0], asker.ask(alike, seed=0, evaluating=True)[1])


def _unread(
    policy: Any, stored: list[str], inputs: Mapping[str, Any], loss: float, asker: Asker
) -> list[str]:
    """Return stored log-probabilities that the loss makes do without, by a ratio to itself."""
    import torch

    def asked(given: Mapping[str, Any]) -> float:
        return asker.ask(given, seed=0, evaluating=True)[1]

    tensors = [name for name in stored if torch.is_tensor(inputs[name])]
    unread = [name for name in tensors if asked({**inputs, name: inputs[name] - 1.0}) == loss]
    trained = [p for p in policy.parameters() if p.requires_grad and p.dim() > 1]
    if not unread or not trained or not float(asker.gradient(dict(inputs)).norm()) > 0:
        return []
    weight, draw = trained[-1], torch.Generator().manual_seed(0)
    before = weight.detach().clone()
    noise = torch.randn(weight.shape, generator=draw).to(weight)
    try:
        with torch.no_grad():
            weight.add_(noise * (float(before.float().std()) or SMALL))
        elsewhere = asked(inputs)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    # The sum of advantages is rounded alike; a ratio that is not 1 changes by the noise's size.
    return unread if abs(elsewhere - loss) <= SAME * max(1.0, abs(loss)) else []


def _is_causal(policy: Any) -> bool:
    """Return whether it predicts next tokens; a head that reads the last token reads padding."""
    model = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
    return any(
        "ForCausalLM" in cls.__name__ or "LMHeadModel" in cls.__name__
        for cls in type(model).__mro__
    )


def _between(
    seen: list[Pass], others: list[Pass], policy: Any, is_reference: Callable[[Pass], bool]
) -> Gap:
    """Compare each pass of the reference with the policy's pass over the same tokens."""
    mine = [one for one in seen if one.module is policy and one.graded]
    pairs = [
        (own, other)
        for other in others
        if is_reference(other)
        for own in mine
        if own.logps.shape == other.logps.shape and bool((own.ids == other.ids).all())
    ]
    return gap_between([(own.logps, other.logps) for own, other in pairs])


def _alike(one: list[Pass], other: list[Pass]) -> Gap:
    """Compare passes that were made twice, in their order."""
    if len(one) != len(other):
        return Gap()
    pairs = [(a.logps, b.logps) for a, b in zip(one, other, strict=True)]
    return gap_between([(a, b) for a, b in pairs if a.shape == b.shape])


def _to_stored(seen: list[Pass], policy: Any, name: str, inputs: Mapping[str, Any]) -> Gap:
    """Compare the policy's log-probabilities with stored ones, of tokens or completions."""
    import torch

    values, mask = inputs[name], inputs.get("completion_mask")
    mine = [one for one in seen if one.module is policy and one.graded]
    if not torch.is_tensor(values) or not torch.is_tensor(mask) or not mine or mask.dim() != 2:
        return Gap()
    values, mask = values.detach().float().cpu(), mask.cpu()
    logps = torch.cat([one.logps for one in mine if one.logps.shape[1] == mine[0].logps.shape[1]])
    if len(logps) != len(mask):
        return Gap()
    width = min(mask.shape[1], logps.shape[1])
    logps = logps[:, -width:] * mask[:, -width:]
    if values.dim() == 2 and values.shape[1] >= width:
        return gap_between([(logps, values[:, -width:] * mask[:, -width:])])
    if values.dim() == 1 and 2 * len(values) == len(logps):  # TRL's halves of pairs
        half = slice(len(values), None) if "rejected" in name else slice(len(values))
        logps, mask = logps[half], mask[half]
    if values.dim() == 1 and len(values) == len(logps):
        sums = logps.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        return gap_between([(sums, values[:, None] / mask.sum(1, keepdim=True).clamp(min=1))])
    return Gap()
