"""From which positions of the model's outputs the first step's gradient comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.fields import logits_of
from trainsanity.maths.norms import norm_of
from trainsanity.objectives.base import IGNORED
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from torch import Tensor

    from trainsanity.measurements.step.steps import MicroStep, Recording


CLEAR = 0.4
"""Share of a position's gradient, by absolute values, that its largest element has where one token
is held against all others: a logarithm of a softmax gives exactly a half, smoothing takes some."""

EVEN = 0.99
"""Ratio of the two largest elements of opposite sign from which they do not tell the target."""

LOOK_AHEAD = 3
"""Places on, up to which tokens are looked at: one beyond those of a shift that is made twice."""

LOOKED_AT = 512
"""Positions of a pass whose logits are looked at: of large vocabularies they take much room."""


AGREE = 0.95
"""Share of the outputs that have to name the token at one and the same distance."""

FEW = 8
"""Outputs whose target is named, from which on their places say something."""


@dataclass
class Aims:
    """Which token each output is held against, read off the gradient at the logits.

    The derivative of the logarithm of a probability has one sign at the token itself and the other
    at all others: whatever loss is made of such logarithms, weighted or compared with a reference,
    names its targets so.

    Attributes:
        own, following, second: how many outputs are held against the token that is given at their
            own place, at the next, and at the one after, and against neither of the other two.
        clear: outputs of which the gradient names one token, and where these three tokens differ.
        losses: of some of them, -log of the named token's probability.
        chances: the same for tokens that other outputs are held against.
        classes: of the logits.
        shape: of the token ids.
    """

    own: int = 0
    following: int = 0
    second: int = 0
    clear: int = 0
    losses: list[float] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    classes: int = 0
    shape: tuple[int, ...] = ()

    @property
    def ahead(self) -> int | None:
        """Return how many places on the tokens stand that outputs are held against; or None."""
        if self.clear < FEW:
            return None
        counts = (self.own, self.following, self.second)
        return next((k for k, one in enumerate(counts) if one >= AGREE * self.clear), None)

    def note(self, logits: Tensor, gradient: Tensor, ids: Tensor) -> None:
        """Take in one pass: ``[B, T, C]``, the gradient there, and the ids that were given."""
        slopes = gradient.detach().float()
        up, raised = (-slopes).max(-1)
        down, lowered = slopes.max(-1)
        largest = up.maximum(down)
        clear = (largest > 0) & (largest >= CLEAR * slopes.abs().sum(-1))
        del slopes
        # Where the model is sure of one wrong token, that one and the target weigh the same: the
        # target is the one that is raised, unless it is pushed down.
        even = up.minimum(down) >= EVEN * largest
        named = raised.where((up > down) | even, lowered)
        clear &= ~even | (named == ids.roll(-1, 1))
        if ids.shape[1] > LOOK_AHEAD:
            windows = [ids[:, k : ids.shape[1] - LOOK_AHEAD + k] for k in range(LOOK_AHEAD + 1)]
            here, after, then, behind = windows
            inside = named[:, :-LOOK_AHEAD]
            # Two alike are mostly padding: what a row's last outputs are held against is not given.
            apart = (here != after) & (after != then) & (here != then) & (then != behind)
            apart &= clear[:, :-LOOK_AHEAD]
            self.clear += int(apart.sum())
            own, following, second = (int(((inside == x) & apart).sum()) for x in windows[:3])
            self.own, self.following = self.own + own, self.following + following
            self.second += second
        rows, targets = logits.detach()[clear][:LOOKED_AT].float(), named[clear][:LOOKED_AT]
        if len(targets) > 1:
            losses = -rows.log_softmax(-1)
            others = targets.roll(len(targets) // 2)
            self.losses += losses.gather(1, targets[:, None])[:, 0].tolist()
            self.chances += losses.gather(1, others[:, None])[:, 0].tolist()
            self.classes = int(rows.shape[1])


@dataclass
class Rises:
    """How many of each row's tokens one pass's gradient makes likelier, and how many less likely.

    Attributes:
        ids: ``[B, T]``, what the pass was given, on the CPU.
        raised, lowered: ``[B]``, tokens of each row whose probability goes up, or down, when a step
            is taken against the gradient.
    """

    ids: Tensor
    raised: Tensor
    lowered: Tensor

    @classmethod
    def of(cls, gradient: Tensor, ids: Tensor) -> Rises:
        """Read them off the gradient at the logits of the last ``T`` or fewer positions."""
        width = gradient.shape[1]
        slopes = gradient.detach().float()[:, :-1]
        following = ids[:, ids.shape[1] - width + 1 :, None]
        own = slopes.gather(-1, following)[..., 0]
        # Of log(softmax) the token's own slope is as large as all others together.
        named = own.abs() >= CLEAR * slopes.abs().sum(-1)
        raised, lowered = (named & (own < 0)).sum(1), (named & (own > 0)).sum(1)
        return cls(ids.cpu(), raised.cpu(), lowered.cpu())


@dataclass
class Pulls:
    """Gradients of the logits in the first step.

    Attributes:
        norms: for each pass of the model with one row of logits a token, ``[B, T]`` on the CPU.
        two_sided: the model has an encoder and a decoder.
        aims: which tokens the outputs of all these passes are held against.
        rises: for each pass with logits for its last tokens at least, what becomes likelier.
    """

    norms: list[Tensor] = field(default_factory=list)
    two_sided: bool = False
    aims: Aims = field(default_factory=Aims)
    rises: list[Rises] = field(default_factory=list)


@dataclass(frozen=True)
class ModelCall:
    """The first call of the model in training: what it was given, as it was given.

    Attributes:
        args, kwargs: its arguments; tensors are copies.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def values(self) -> list[Any]:
        """All arguments, in order."""
        return [*self.args, *self.kwargs.values()]

    def with_value(self, old: Any, new: Any) -> ModelCall:
        """Return the call with ``new`` in the place of the argument that is ``old``."""
        return ModelCall(
            tuple(new if value is old else value for value in self.args),
            {name: new if value is old else value for name, value in self.kwargs.items()},
        )


@contextmanager
def pulls_watched(model: Any, seen: Recording) -> Iterator[None]:
    """Note the norm of each position's gradient at the logits, in the first step alone."""
    import torch

    config = getattr(unwrapped(model), "config", None)
    seen.pulls.two_sided = bool(getattr(config, "is_encoder_decoder", False))

    def copied(value: Any) -> Any:
        return value.detach().clone() if torch.is_tensor(value) else value

    def at_end(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if seen.model_call is None and not seen.asking and torch.is_grad_enabled():
            named = {name: copied(value) for name, value in kwargs.items()}
            seen.model_call = ModelCall(tuple(map(copied, args)), named)
        if seen.asking or len(seen.steps) > 1:
            return
        if not seen.pulls.two_sided:
            watch_aims(seen.pulls, output, [*args, *kwargs.values()], lambda: not seen.asking)
        logits = output.get("logits") if isinstance(output, Mapping) else None
        if not torch.is_tensor(logits) or logits.dim() != 3 or not logits.requires_grad:
            return
        place = len(seen.pulls.norms)
        # Where no gradient arrives nothing is pulled.
        seen.pulls.norms.append(torch.zeros(logits.shape[:2]))

        def arrived(gradient: Tensor) -> None:
            if not seen.asking:
                norms = norm_of(gradient.detach(), dim=-1)
                seen.pulls.norms[place] = norms.cpu()

        logits.register_hook(arrived)

    handle = unwrapped(model).register_forward_hook(at_end, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def watch_aims(
    pulls: Pulls, output: Any, given: Iterable[Any], wanted: Callable[[], bool] = lambda: True
) -> None:
    """Note which tokens an output is held against, as soon as a gradient arrives there.

    Args:
        pulls: where it is noted.
        output: what the model returned.
        given: the model's arguments.
        wanted: whether the gradient that arrives is the step's own.
    """
    import torch

    logits = logits_of(output)
    if not torch.is_tensor(logits) or logits.dim() != 3 or not logits.requires_grad:
        return
    values = list(given)
    ids = given_ids(values, logits.shape[:2])
    exact = ids is not None
    # Of a prompt and its answer some ask for the answer's logits alone.
    ids = ids if ids is not None else given_ids(values, logits.shape[:2], longer=True)
    if ids is None or not logits.shape[1]:
        return
    kept, copied = logits.detach(), ids.detach().clone()
    if exact:
        pulls.aims.shape = tuple(ids.shape)
    # Scores of classes name no tokens, and where embeddings were given the labels look like ids.
    named = int(ids.min()) >= 0 and int(ids.max()) < logits.shape[2]
    words = logits.shape[1] > 1 and named

    def arrived(gradient: Tensor) -> None:
        if not wanted():
            return
        if exact:
            pulls.aims.note(kept, gradient, copied)
        if words:
            pulls.rises.append(Rises.of(gradient, copied))

    logits.register_hook(arrived)


def given_ids(
    values: Iterable[Any], shape: Sequence[int], *, longer: bool = False
) -> Tensor | None:
    """Return the token ids of a shape among a model's arguments: the first ones beyond 0, 1.

    A mask is made of zeros and ones; positions begin with 0 in every row.  An encoder's tokens
    mostly have another shape than those of the decoder, whose outputs these are.

    Args:
        values: the arguments.
        shape: rows and tokens.
        longer: rows of more tokens will do.
    """
    import torch

    for value in values:
        if not torch.is_tensor(value) or value.dim() != 2 or value.is_floating_point():
            continue
        fits = longer and len(value) == shape[0] and value.shape[1] >= shape[1]
        if tuple(value.shape) != tuple(shape) and not fits:
            continue
        counted = value.dtype != torch.bool and int(value.max()) > 1
        if counted and not bool((value == torch.arange(value.shape[1]).to(value)).all()):
            return value
    return None


@dataclass(frozen=True)
class Hidden:
    """Positions of a pass that nothing is to be learnt from.

    Attributes:
        places: which, ``[B, T]``.
        source: what names them.
        labelled: how many of them have the padding's id for a label: behind the end of a target.
    """

    places: Tensor
    source: str
    labelled: int = 0


def at_padding(
    micro: MicroStep,
    norms: Tensor,
    *,
    two_sided: bool,
    ends: frozenset[int] = frozenset(),
    pad: int | None = None,
) -> Hidden | None:
    """Return which positions' outputs nothing is learnt from, and what names them.

    A decoder's are those behind its last label; other models' those that the mask hides, but for
    the last one on the left, which predicts the first token.  None where nothing names them.

    Args:
        micro: whose inputs have labels and a mask.
        norms: of the gradient at each position.
        two_sided: the model has an encoder and a decoder.
        ends: tokens that end a decoder's target.
        pad: the padding's id: behind such an end it is no target, whatever its label says.
    """
    import torch

    labels, mask = micro.inputs.get("labels"), micro.inputs.get("attention_mask")
    if two_sided:
        if not torch.is_tensor(labels) or labels.shape != norms.shape:
            return None
        counted = (labels != IGNORED).cpu()
        padded = _behind_the_end(labels.cpu(), ends, pad)
        counted &= ~padded
        behind = counted.flip(1).cumsum(1).flip(1) == 0
        stored = int(padded.sum())
        source = "the padding's id, behind the end of a target," if stored else "labels"
        return Hidden(behind & counted.any(1, keepdim=True), source, stored)
    if not torch.is_tensor(mask) or mask.shape != norms.shape:
        return None
    hidden = (mask == 0).cpu()
    if torch.is_tensor(labels) and labels.shape == mask.shape and not labels.is_floating_point():
        # Labels that are counted under a hidden token are the collator's affair.
        hidden &= (labels == IGNORED).cpu()
    hidden[:, :-1] &= hidden[:, 1:].clone()
    return Hidden(hidden, "attention_mask")


def _behind_the_end(labels: Tensor, ends: frozenset[int], pad: int | None) -> Tensor:
    """Return where labels are padding that was left in: a run of its id behind a target's end.

    Of a padding that ends texts as well the first one is the end itself. mBART has the code of the
    language between the end and the padding.
    """
    import torch

    found = torch.zeros(labels.shape, dtype=torch.bool)
    if pad is None or not ends or labels.is_floating_point():
        return found
    for number, row in enumerate(labels.tolist()):
        last = len(row)
        while last and row[last - 1] == IGNORED:
            last -= 1
        first = last
        while first and row[first - 1] == pad:
            first -= 1
        first += pad in ends and first < last
        if not ends.isdisjoint(row[max(0, first - 2) : first]):
            found[number, first:last] = True
    return found
