"""Watch a script's own training loop through torch's global hooks, and judge its second step.

Nothing is known of the script.  Optimizers tell when they step, modules when they are called,
``torch.autograd`` where a backward pass starts, data loaders what they give.  As the second
optimizer step begins there are two gradients, their losses and batches, and the weights of both:
that is judged, and the script ends there.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainsanity.errors import UsageError
from trainsanity.objectives.loss_arguments import JUDGES
from trainsanity.sources.captured import Captured
from trainsanity.sources.loop_modes import epochs_of, left_in_eval
from trainsanity.sources.loop_passes import Passes, Schedulers
from trainsanity.sources.loop_tracks import Track, elements_of
from trainsanity.sources.patching import TRAINER, Undo, patched, when_imported

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

RENEWED = 3
"""Optimizers of the same parameters with one step each, all but the first made after a step, from
which on they are taken to be made anew for every step: a second one may begin another phase."""

PATIENCE = 20
"""Steps that a small optimizer may take while a larger one is there.  Chosen: a discriminator takes
five for each of its generator's, a probe or a warm-up some more."""

BY_HAND = 200
"""Times that weights may change between backward passes of a script that has no optimizer.  Chosen:
pruning by gradients before an optimizer is built takes 100, training by hand thousands."""

UNKNOWN_STEPS = (
    "this script changes its model's weights between backward passes and has no torch.optim."
    "Optimizer: give it one, such as torch.optim.SGD, to have the training loop judged"
)

LOSSES = ("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
          "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div")  # fmt: skip
"""Functions of ``torch.nn.functional`` that take a prediction and a target, and average."""


class LoopCapture:
    """Watches a script until two optimizer steps of one model were seen."""

    def __init__(
        self,
        away: Callable[[], bool],
        judge: Callable[[Callable[[], Pipeline]], BaseException],
        elsewhere: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare to watch.

        Args:
            away: whether somebody else's steps are taken: a Trainer's, or trainsanity's own.
            judge: judges the pipeline that it is given a builder of, and returns what is to be
                raised to end the script.
            elsewhere: called in a thread of the script, or of the judge, that steps an optimizer
                meanwhile.
        """
        self._away, self._judge, self._elsewhere = away, judge, elsewhere
        self._scheduled = Schedulers()
        self._here = threading.local()
        self._tracks: dict[int, Track] = {}
        self._passes_of: dict[int, Passes] = {}
        self._loaders: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._trainers: list[Any] = []
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._late: weakref.WeakSet[Any] = weakref.WeakSet()  # made after the first step
        self._skipped = 0
        self._over = False

    @property
    def _passes(self) -> Passes:
        """What happened in this thread: a script may train in one that it starts."""
        passes: Passes | None = getattr(self._here, "passes", None)
        if passes is None:
            passes = self._here.passes = Passes(self._scheduled)
        return passes

    @property
    def found(self) -> bool:
        """Whether at least one optimizer step was seen."""
        return any(track.taken for track in self._tracks.values())

    def judge_what_is_there(self) -> None:
        """Judge the largest model that took a step, at the end of a script without a second."""
        if self._over or not self.found:
            return
        tracks = [track for track in self._tracks.values() if track.steps]
        tracks = tracks or list(self._tracks.values())
        self._end(max(tracks, key=lambda track: track.elements))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hook torch as soon as the script imports it, and take the hooks off at the end."""
        losses = dict.fromkeys((*LOSSES, *JUDGES), self._losing)
        # What torch.compile says of global hooks is about these.
        warnings.filterwarnings("ignore", "Using `torch.compile", UserWarning)
        with contextlib.ExitStack() as stack:
            for module, apply in (
                ("torch.optim.optimizer", self._hook_optimizers),
                ("torch.nn.modules.module", self._hook_modules),
            ):
                stack.enter_context(when_imported(module, apply))
            for home, wrappers in (
                (("torch.autograd", ""), {"backward": self._backward}),
                (("torch.nn.functional", ""), losses),
                (("torch.nn.utils.clip_grad", ""), {"_clip_grads_with_norm_": self._clipping}),
                (
                    ("torch.amp.grad_scaler", "GradScaler"),
                    {"step": self._scaler_step, "scale": self._scaling},
                ),
                (("torch.utils.data.dataloader", "DataLoader"), {"__iter__": self._iterating}),
                (("torch.utils.data.dataloader", "_BaseDataLoaderIter"), {"__next__": self._next}),
                (("torch.optim.lr_scheduler", "LRScheduler"), {"step": self._scheduling}),
                (("torch.optim.optimizer", "Optimizer"), {"__init__": self._optimizing}),
                (TRAINER, {"__init__": self._building}),
            ):
                stack.enter_context(patched(home, wrappers))
            yield

    def _off(self) -> bool:
        return self._over or self._away()

    # --- hooks -----------------------------------------------------------------------------------

    def _hook_optimizers(self, module: ModuleType) -> Iterable[Undo]:
        loaded: Any = module
        yield loaded.register_optimizer_step_pre_hook(self._stepping).remove
        yield loaded.register_optimizer_step_post_hook(self._stepped).remove

    def _hook_modules(self, module: ModuleType) -> Iterable[Undo]:
        loaded: Any = module
        yield loaded.register_module_forward_pre_hook(self._calling).remove
        yield loaded.register_module_forward_hook(
            self._called, with_kwargs=True, always_call=True
        ).remove

    def _calling(self, module: Any, _args: Any) -> None:
        if not self._compiling() and not self._off() and not _is_replica(module):
            self._passes.begin(module)

    def _called(self, module: Any, args: Any, *rest: Any) -> None:
        # Where the module raised, torch gives a global hook no named arguments.
        kwargs, output = rest if len(rest) == 2 else ({}, None)
        if not self._compiling() and not self._off() and not _is_replica(module):
            self._passes.end(module, args, kwargs, output)

    @staticmethod
    def _compiling() -> bool:
        import torch

        return bool(torch.compiler.is_compiling())

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if self._off() or self._passes.inside:
                return original(tensors, *args, **kwargs)
            for track in self._tracks.values():
                track.before_backward()
            if not self._optimizers and self._passes.changed_by_hand() > BY_HAND:
                raise self._refuse(UNKNOWN_STEPS)
            with self._passes.backward(tensors):
                return original(tensors, *args, **kwargs)

        return backward

    def _losing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def loss(*args: Any, **kwargs: Any) -> Any:
            import torch

            value = original(*args, **kwargs)
            if not self._compiling() and torch.is_tensor(value) and not self._off():
                self._passes.lost(original, args, kwargs, value, sys._getframe(1))
            return value

        return loss

    def _clipping(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def clip(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            import torch

            given = [parameters] if torch.is_tensor(parameters) else list(parameters)
            # Other norms than the second leave another length.
            second = sys._getframe(1).f_locals.get("norm_type", 2.0) == 2.0
            if second and not self._off():
                self._passes.clipped(given, float(max_norm))
            return original(given, max_norm, *args, **kwargs)

        return clip

    def _scaling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def scale(scaler: Any, outputs: Any) -> Any:
            if not self._off() and scaler.is_enabled():
                self._passes.scaler = scaler
            return original(scaler, outputs)

        return scale

    def _scaler_step(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            inner = getattr(optimizer, "optimizer", optimizer)
            known = self._tracks.get(id(inner))
            before = 0 if known is None else known.taken
            result = original(scaler, optimizer, *args, **kwargs)
            if not self._off():
                known = self._tracks.get(id(inner))
                if (0 if known is None else known.taken) == before:
                    # Its gradients were not finite: those batches are lost, by design.
                    self._skipped += 1
                    self._passes.forget()
            return result

        return step

    def _iterating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def iterate(loader: Any) -> Any:
            iterator = original(loader)
            self._loaders[iterator] = loader
            return iterator

        return iterate

    def _next(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def following(iterator: Any) -> Any:
            batch = original(iterator)
            loader = self._loaders.get(iterator)
            if loader is not None and not self._off():
                self._passes.gave(loader)
            return batch

        return following

    def _scheduling(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def step(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(scheduler, *args, **kwargs)
            if not self._off():
                self._scheduled.note(scheduler, placed=bool(args or kwargs))
            return result

        return step

    def _optimizing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            self._optimizers.add(optimizer)
            if self.found:
                self._late.add(optimizer)

        return init

    def _building(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def init(trainer: Any, *args: Any, **kwargs: Any) -> None:
            original(trainer, *args, **kwargs)
            self._trainers.append(trainer)

        return init

    # --- optimizer steps -------------------------------------------------------------------------

    def _stepping(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if self._off():
            if not isinstance(threading.current_thread(), threading._DummyThread):
                self._elsewhere()
            return None
        passes = self._passes
        passes.depth += 1
        if passes.depth > 1:  # an optimizer that is made of others
            return None
        closure = kwargs.get("closure") or next(filter(callable, args[1:]), None)
        if closure is None:
            self._note(optimizer)
            return None
        noted: list[bool] = []

        def first_of(*given: Any) -> Any:
            # Gradients exist only once the closure has made them; later calls are of later weights.
            loss = closure(*given)
            if not noted:
                noted.append(True)
                self._note(optimizer)
            return loss

        if "closure" in kwargs:
            return args, {**kwargs, "closure": first_of}
        return tuple(first_of if one is closure else one for one in args), kwargs

    def _stepped(self, optimizer: Any, *_: Any) -> None:
        if self._off():
            return
        passes = self._passes
        passes.depth = max(0, passes.depth - 1)
        if not passes.depth and id(optimizer) in self._tracks:
            self._tracks[id(optimizer)].after(passes)
            passes.fresh = True

    def _note(self, optimizer: Any) -> None:
        passes = self._passes
        if not passes.made:  # nothing was differentiated for it
            return
        track = self._tracks.setdefault(id(optimizer), Track(optimizer))
        self._passes_of[id(optimizer)] = passes
        track.note(passes)
        if len(renewed := self._renewed(track)) == RENEWED:
            raise self._end(renewed[0], renewed)
        late = track.taken > PATIENCE
        if (track.complete or (late and track.model is None)) and (late or not self._larger(track)):
            raise self._end(track)

    def _renewed(self, last: Track) -> list[Track]:
        """Return the tracks of the same parameters, if each took one step and then one was made."""
        same = [one for one in self._tracks.values() if one.parameters == last.parameters]
        once = all(one.taken == 1 and one.stateless for one in same)
        once = once and all(one.optimizer in self._late for one in same[1:])
        return same if once and same[0].steps else []

    def _larger(self, track: Track) -> bool:
        """Return whether something larger is there that has not been trained yet."""
        own = track.parameters | {id(p) for p in track.model.parameters()}
        for found in self._optimizers:
            held = {id(p) for group in found.param_groups for p in group["params"]}
            if not held & own and elements_of(found) > track.elements:
                return True
        return any(
            sum(p.numel() for p in trainer.model.parameters()) > track.elements
            and not {id(p) for p in trainer.model.parameters()} & own
            for trainer in self._trainers
            if getattr(trainer, "model", None) is not None
        )

    def _refuse(self, why: str) -> BaseException:
        def refuse() -> Pipeline:
            raise UsageError(why)

        self._over = True
        return self._judge(refuse)

    def _end(self, track: Track, renewed: Sequence[Track] = ()) -> BaseException:
        from trainsanity.sources.loop_pipeline import pipeline_of

        self._over = True
        # Without moments nothing is lost; the last one is about to take its step.
        lost = bool(renewed) and all(one.optimizer.state for one in renewed[:-1])
        captured = Captured(
            track.steps,
            before=int(track.dropped),
            renewed=lost,
            epochs=epochs_of(sys._getframe(1)),
        )
        if track.model is not None:
            captured.left_in_eval = left_in_eval(sys._getframe(1), track.model)
        left_out = (track, *renewed)
        others = [other for other in self._tracks.values() if other not in left_out]
        passes = self._passes_of[id(track.optimizer)]
        return self._judge(lambda: pipeline_of(captured, track, others, passes, self._skipped))


def _is_replica(module: Any) -> bool:
    """Return whether a module is a copy for one device, which DataParallel calls in a thread."""
    return bool(getattr(module, "_is_replica", False))
