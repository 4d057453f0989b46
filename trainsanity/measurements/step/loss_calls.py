"""The calls of torch's loss functions in the first steps, judged while their tensors exist."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.objectives.bounded_outputs import REGRESSIONS, Cosines, overlap
from trainsanity.objectives.cosine_scores import CosineScores
from trainsanity.objectives.loss_arguments import JUDGES, Misfit, over_the_batch
from trainsanity.objectives.loss_places import AT_MOST, TARGETS, LossCall, place
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

SQUARE = 512
"""Rows of a batch whose scores with one another are kept, at the most."""

BOXES = 4096
"""Boxes of a batch that are kept, at the most: tensors of other things are larger."""


@dataclass(frozen=True)
class Corners:
    """Boxes that were turned from centre and size to corners, of numbers without a gradient.

    Attributes:
        where: the line that did so, ``file:line``.
        boxes: ``[N, 4]``: left, top, right, bottom.
    """

    where: str
    boxes: Any

    @property
    def given(self) -> Any:
        """The boxes as they were: centre, width and height."""
        import torch

        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        return torch.cat([(low + high) / 2, high - low], -1)


@contextlib.contextmanager
def loss_calls_seen(
    pipeline: Pipeline, seen: list[LossCall], corners: list[Corners] | None = None
) -> Iterator[None]:
    """Look at the arguments of each loss function that is called in the block.

    A compiled model is left alone, since what watches calls would have it compiled again.
    """
    if _compiled(pipeline):
        yield
        return
    rows = int(getattr(pipeline.args, "train_batch_size", 0) or 0)
    with _mode(rows)(seen, [] if corners is None else corners):
        yield


def _caller() -> Any:
    """Return the innermost frame outside of this module."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return frame


def _keep(call: LossCall, given: dict[str, Any]) -> None:
    """Note weights and targets of a cross entropy."""
    target = given["target"]
    if given["weight"] is not None:
        call.weights = given["weight"].tolist()
    if not call.items and not target.is_floating_point():
        call.items = target.numel()
        call.targets = target.detach().reshape(-1)[:TARGETS].tolist()
        scores = given["input"].detach()
        if scores.dim() == 2 and len(scores) == scores.shape[1] and len(scores) <= SQUARE:
            call.scores = scores.float().tolist()


def _tell(call: LossCall, found: list[Misfit]) -> None:
    """Add what did not fit, each once."""
    told = {one.cause for one in call.misfits}
    call.misfits += [one for one in found if one.cause not in told]


def _compiled(pipeline: Pipeline) -> bool:
    model = pipeline.model
    return bool(getattr(pipeline.args, "torch_compile", False)) or any(
        hasattr(one, "_orig_mod") or getattr(one, "_compiled_call_impl", None) is not None
        for one in (model, unwrapped(model))
    )


def _mode(rows: int) -> Any:
    """Return the class of the mode for micro-batches of so many rows; torch is imported by then."""
    import torch
    from torch.overrides import TorchFunctionMode

    functional = torch.nn.functional
    functions = {
        getattr(functional, name): name
        for name in (*JUDGES, *REGRESSIONS)
        if hasattr(functional, name)
    }
    ratios = {torch.div, torch.true_divide, torch.Tensor.div, torch.Tensor.__truediv__}
    joined = {torch.cat, torch.stack}
    signatures = {function: inspect.signature(function) for function in functions}
    # The place of ``dim`` among the arguments, and what it is if it is left out.
    along: dict[Any, tuple[str, int, int | None]] = {torch.nn.functional.normalize: (
        "normalize", 2, 1)}  # fmt: skip
    for name in ("softmax", "log_softmax"):
        for home in (torch, torch.Tensor, torch.nn.functional):
            along[getattr(home, name)] = (name, 1, None)

    class Watching(TorchFunctionMode):
        """Calls what is called, and looks at loss functions that a gradient will come from."""

        def __init__(self, seen: list[LossCall], corners: list[Corners]) -> None:
            super().__init__()
            self.cosines = Cosines()
            self.cosine_scores = CosineScores()
            self.corners = corners
            self.places: dict[tuple[str, str], LossCall] = {}
            self.seen = seen
            self.by_element: tuple[LossCall, str, dict[str, Any], list[Misfit]] | None = None

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if not torch.is_grad_enabled():
                return func(*args, **kwargs)
            self.by_element = None
            # What only looks must never raise in the user's step; torch refuses what it cannot use.
            with contextlib.suppress(Exception):
                self._before(func, args, kwargs)
            result = func(*args, **kwargs)
            with contextlib.suppress(Exception):
                self._after(func, args, result)
            return result

        def _before(self, func: Any, args: Any, kwargs: Any) -> None:
            if func in functions:
                self._look(func, args, kwargs)
            elif func in along and args:
                self._look_along(func, args, kwargs)

        def _after(self, func: Any, args: Any, result: Any) -> None:
            if self.by_element is not None:
                self._wait_for_gradient(*self.by_element, result)
            elif func is functional.cosine_similarity:
                self.cosines.note(self.cosines.cosines, result)
                self.cosine_scores.note_cosines(result)
            elif func is functional.normalize:
                self.cosines.note(self.cosines.units, result)
                self.cosine_scores.note_units(result)
            elif func in ratios:
                self.cosine_scores.note_units(result)
                self._look_at_ratio(*args)
            elif func in joined:
                self._keep_corners(result)

        def _look_at_ratio(self, above: Any, below: Any, *_: Any) -> None:
            for misfit in overlap(above, below):
                where, _library = place(_caller())
                if where and ("overlap", where) not in self.places:
                    call = LossCall("an overlap", where, 1, [misfit])
                    self.places["overlap", where] = call
                    self.seen.append(call)

        def _look_at_scores(self, scores: Any) -> None:
            """Look at a log_softmax of one's own over candidates."""
            misfit = self.cosine_scores.misfit(scores)
            where, library = place(_caller())
            if misfit is not None and not library and ("log_softmax", where) not in self.places:
                call = LossCall("log_softmax", where, 1, [misfit])
                self.places["log_softmax", where] = call
                self.seen.append(call)

        def _keep_corners(self, result: Any) -> None:
            boxes = result.dim() > 1 and result.shape[-1] == 4 and result.is_floating_point()
            if not boxes or result.requires_grad or not 0 < result.numel() <= BOXES * 4:
                return
            where, _library = place(_caller())
            if where and sum(one.where == where for one in self.corners) < AT_MOST:
                self.corners.append(Corners(where, result.detach().reshape(-1, 4).float().cpu()))

        def _look_along(self, func: Any, args: Any, kwargs: Any) -> None:
            name, index, default = along[func]
            dim = kwargs.get("dim", args[index] if len(args) > index else default)
            if name == "log_softmax" and dim in (1, -1):
                self._look_at_scores(args[0])
            if dim not in (0, -2) or not args[0].requires_grad:
                return
            where, library = place(_caller())
            if library:
                return
            call = self.places.get((name, where))
            if call is None:
                call = self.places[name, where] = LossCall(name, where, 1, [])
                self.seen.append(call)
                call.misfits += over_the_batch(name, args[0], dim, rows)
            elif call.misfits and not [*over_the_batch(name, args[0], dim, rows)]:
                # What has as many rows only now and then is something else: words, instances.
                call.misfits.clear()

        def _look(self, func: Any, args: Any, kwargs: Any) -> None:
            name = functions[func]
            where, _ = place(_caller())
            if not where:
                return
            call = self.places.get((name, where))
            if call is None:
                call = self.places[name, where] = LossCall(name, where, 0, [])
                self.seen.append(call)
            if call.count >= AT_MOST:
                return
            bound = signatures[func].bind(*args, **kwargs)
            bound.apply_defaults()
            found: list[Misfit] = (
                [*REGRESSIONS[name](bound.arguments, self.cosines)]
                if name in REGRESSIONS
                else [*JUDGES[name](bound.arguments)]
            )
            if name == "cross_entropy":
                misfit = self.cosine_scores.misfit(bound.arguments["input"])
                found += [misfit] if misfit is not None else []
            call.count += 1
            if bound.arguments.get("pos_weight") is not None:
                call.weights = bound.arguments["pos_weight"].detach().reshape(-1).tolist()
            if name == "cross_entropy":
                _keep(call, bound.arguments)
            if found and bound.arguments.get("reduction") == "none" and name in JUDGES:
                self.by_element = call, name, bound.arguments, found
            else:
                _tell(call, found)

        def _wait_for_gradient(
            self, call: LossCall, name: str, given: dict[str, Any], found: list[Misfit], result: Any
        ) -> None:
            """Judge the elements again that count, which the gradient of each loss tells."""
            target = given["target"]
            if result.shape != target.shape or not result.requires_grad:
                _tell(call, found)
                return

            def look(gradient: Any) -> None:
                counts = gradient != 0
                with contextlib.suppress(Exception), torch.enable_grad():
                    part = {**given, "target": target[counts], "input": given["input"][counts]}
                    left = {one.cause for one in JUDGES[name](part)} if counts.any() else set()
                    _tell(call, [one for one in found if one.cause in left])

            result.register_hook(look)

    return Watching
