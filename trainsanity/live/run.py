"""One run as the callback follows it: measurements, the log so far, and the answers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainsanity.diagnose.case import Case, Known
from trainsanity.diagnose.entries import Log, entry_of
from trainsanity.diagnose.questions import QUESTIONS, answer
from trainsanity.engine.facts import settings_of
from trainsanity.engine.report import Report
from trainsanity.engine.session import Session, objective_of
from trainsanity.live.first_step import FirstStep
from trainsanity.live.gradients import Gradients
from trainsanity.live.pace import Pace
from trainsanity.live.ranks import summed
from trainsanity.live.weights import Weights
from trainsanity.pipeline import Pipeline
from trainsanity.types import Finding, Measured, Result, Skip, Status

EVERY_LOG = ("loss.finite", "gradient.finite")
"""Questions judged at each log line; the others read the whole log, each time it has doubled."""

PACE = ("speed.loader_keeps_up", "speed.steps_take_alike")
"""Questions that the clock answers."""


class Run:
    """Follows one ``train()`` and keeps the latest answer to each question.

    Args:
        args, state, model, optimizer, lr_scheduler: as the Trainer gives them to callbacks.
    """

    def __init__(self, args: Any, state: Any, model: Any, optimizer: Any, scheduler: Any) -> None:
        pipeline = Pipeline(model=model, args=args)
        self.name = type(model).__name__
        self.facts = Session.of(pipeline).facts
        self.settings = settings_of(pipeline)
        self.device = args.device
        self.begin = int(state.global_step)
        self.results: dict[str, Result] = {}
        self.broken = False
        self.first_step: FirstStep | None = FirstStep(objective_of(pipeline))
        if getattr(args, "torch_compile", False):
            self.first_step.skipped = "a hook would make torch.compile compile twice"
        else:
            self.first_step.watch(model)
        compiled = bool(getattr(args, "torch_compile", False))
        self.pace = Pace(model, hooked=not compiled)
        self.gradients = Gradients(model, scaled=bool(args.fp16))
        self.weights = Weights(model, optimizer, _peak(optimizer, args))
        self.log = Log(self.name)
        known = _known(args, state, scheduler)
        self.case = Case(self.log, known, share=_share(scheduler), **_command())
        self._stop_requested = 0.0

    def before_update(self, step: int) -> bool:
        """Check the gradients; return whether this process or another one requests a stop."""
        flags = [float(self.gradients.broken()), self._stop_requested]
        broken, requested = summed(flags, self.device)
        if broken:
            self.broken = True
            self._answer("gradient.finite", lambda: _broken_gradients(step))
        return bool(broken or requested)

    def stop_everywhere(self) -> None:
        """Request a stop from all processes at the next step; only this one has the finding."""
        self._stop_requested = 1.0

    def end_first_step(self) -> None:
        """Complete the first step's measurement: all of its micro-batches were seen."""
        if self.first_step is not None:
            self.first_step.close(self.device)

    def logged(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a log line and judge what it can answer."""
        entry = entry_of({"step": step, **values}, f"step {step}")
        if entry is None:
            return
        self.log.add(entry)
        if self.first_step is not None and entry.loss is not None:
            first, self.first_step = self.first_step, None
            loss = entry.loss if step == self.begin + 1 else None
            self._answer("loss.matches_reference", lambda: first.scale(loss, self.facts))
            self._answer("loss.initial_is_uninformed", lambda: self._initial(first))
        count = self.log.count
        every = count & (count - 1) == 0
        for name in QUESTIONS if every else EVERY_LOG:
            self._judge(name)

    def _initial(self, first: FirstStep) -> Iterator[Measured | Finding]:
        if self.begin:
            raise Skip(f"the run was resumed at step {self.begin}")
        return first.uninformed()

    def _judge(self, name: str) -> None:
        # Both are answered exactly from the first step's logits.
        if name in ("loss.initial_is_uninformed", "loss.matches_reference"):
            return
        result = answer(name, QUESTIONS[name], self.case)
        # A failure stays: logging_nan_inf_filter may hide from the log what was found before.
        before = self.results.get(name)
        if before is None or before.status is not Status.FAIL:
            self.results[name] = result

    def after_update(self) -> None:
        """Compare the sample of weights when it is time."""
        if self.weights.stepped():
            self._answer("update.moves_the_right_ones", self.weights.move)
            self._answer("update.survives_rounding", self.weights.survive)

    def end_step(self) -> bool:
        """Note the step's time; return whether something was judged by it."""
        if not self.pace.end_step():
            return False
        for name, question in self.pace.questions.items():
            before = self.results.get(name)
            # What was found stays, also where it has passed by now.
            if before is None or before.status is not Status.WARNING:
                self._answer(name, question)
        return True

    def ended(self) -> None:
        """Judge all questions once more, on the whole log."""
        self.end_first_step()
        self.pace.end()
        if self.log.count:
            for name in QUESTIONS:
                if name != "update.moves_the_right_ones" or name not in self.results:
                    self._judge(name)

    def _answer(self, name: str, question: Callable[[], Iterator[Measured | Finding]]) -> None:
        self.results[name] = answer(name, lambda case: question(), self.case)

    def report(self, seconds: float) -> Report:
        """Return the answers so far as a run report."""
        results = sorted(self.results.values(), key=lambda result: result.check.order)
        return Report(
            self.name,
            tuple(replace(result, pipeline_id=self.name) for result in results),
            len({*QUESTIONS, "update.survives_rounding", *PACE}),
            {"settings": self.settings},
            self.facts,
            seconds,
        )


def _broken_gradients(step: int) -> Iterator[Measured | Finding]:
    yield Finding(
        f"the gradients of step {step} are not numbers",
        observed="nan",
        expected="numbers",
        where=f"step {step}",
        cause="a loss that is NaN or infinite, which logging_nan_inf_filter hides in the log, or "
        "an operation whose derivative is infinite",
        fix="look at that step's rows with torch.autograd.detect_anomaly; the weights of "
        f"step {step - 1} are the last good ones",
    )
    yield Measured(f"steps with gradients that are not finite, up to step {step}: 1", 1, 0)


def _known(args: Any, state: Any, scheduler: Any) -> Known:
    """Return what the arguments and the scheduler in use say about the run."""
    lambdas = getattr(_inner(scheduler), "lr_lambdas", None)
    rates = getattr(_inner(scheduler), "base_lrs", None)
    known = Known(
        per_device_train_batch_size=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        world_size=args.world_size,
        learning_rate=float(rates[0]) if rates else None,
        max_steps=state.max_steps,
        max_grad_norm=args.max_grad_norm,
        lr_scheduler_type=str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
    )
    warmup = args.get_warmup_steps(state.max_steps)
    # A custom scheduler does not follow warmup_steps.
    share = Case(Log(""), replace(known, warmup_steps=warmup)).share
    if not lambdas or share is None:
        return known
    places = (1, warmup // 2, warmup, (warmup + state.max_steps) // 2)
    own = any(not math.isclose(lambdas[0](k), share(k), abs_tol=1e-9) for k in places)
    return known if own else Known(**{**asdict(known), "warmup_steps": warmup})


def _command() -> dict[str, tuple[str, ...]]:
    """Return the ``command`` of the script that trains; nothing where no script was started.

    What it was given may be secret, and logs are read by others.
    """
    main = sys.modules.get("__main__")
    started = getattr(main, "__spec__", None) is None and getattr(main, "__file__", None)
    script = sys.argv[0] if sys.argv else ""
    if not (started and script.endswith(".py") and Path(script).is_file()):
        return {}
    return {"command": (script, "ARGS") if sys.argv[1:] else (script,)}


def _share(scheduler: Any) -> Callable[[int], float] | None:
    """Return the scheduler's own curve; None if it depends on more than the step."""
    lambdas = getattr(_inner(scheduler), "lr_lambdas", None)
    return None if not lambdas else lambda k: float(lambdas[0](k))


def _inner(scheduler: Any) -> Any:
    return getattr(scheduler, "scheduler", scheduler)


def _peak(optimizer: Any, args: Any) -> float:
    groups = getattr(optimizer, "param_groups", None) or [{}]
    return max(float(g.get("initial_lr", g.get("lr", args.learning_rate))) for g in groups)
