"""``SanityCallback``: judge a run while it trains."""

from __future__ import annotations

import logging
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainsanity.errors import CheckFailure, UsageError
from trainsanity.report.json import dumps
from trainsanity.report.words import clean, counted
from trainsanity.types import Result, Status

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from trainsanity.live.run import Run

    _Base = TrainerCallback
else:
    _Base = object

logger = logging.getLogger("trainsanity")

ACTIONS = ("warn", "stop", "raise")
"""Consequences that a failure may have."""


class _Events(_Base):
    """Watches a run and reports each thing that is wrong with it once, in one line.

    ``Trainer(..., callbacks=[trainsanity.SanityCallback()])``.  The first step's loss is recomputed
    from its own logits; before every update the gradients are checked, so that a NaN loss is found
    even if ``logging_nan_inf_filter`` hides it; after ten steps the weights are compared with those
    at the start; the log is judged as by ``trainsanity diagnose``; and from step 63 on throughput
    and the wait for rows are held against those of the first steps.  Step 1 is logged, as with
    ``logging_first_step=True``.

    Args:
        action: ``warn`` writes a line; ``stop`` ends the training, too, at a failure, and ``raise``
            raises :class:`trainsanity.CheckFailure` there, so that a script does not go on to save.
            If the gradients are not finite, the update is not made and no checkpoint is written:
            weights and checkpoints are the last good ones.
        results: a file for the answers, as JSON of the run report's schema.

    Lines go to the logger ``trainsanity`` if logging is set up, else to stderr, beside a progress
    bar and not into it.  With several processes the main one writes, and all of them stop at the
    same step.

    Raises:
        UsageError: another action, or a file that cannot be written.
    """

    def __init__(
        self,
        action: Literal["warn", "stop", "raise"] = "warn",
        results: str | os.PathLike[str] | None = None,
    ) -> None:
        if action not in ACTIONS:
            raise UsageError(
                f"SanityCallback(action={action!r}): give {', '.join(map(repr, ACTIONS[:-1]))} or "
                f"{ACTIONS[-1]!r}"
            )
        self.action = action
        self.results = None if results is None else Path(results).resolve()
        if self.results is not None and not self.results.parent.is_dir():
            raise UsageError(f"SanityCallback(results=...): there is no {self.results.parent}")
        self._run: Run | None = None
        self._reported: set[str] = set()
        self._start = 0.0
        self._ended = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start watching the run."""
        from trainsanity.live.run import Run

        self._reported, self._start, self._ended = set(), time.perf_counter(), False
        self._run = Run(
            args, state, kwargs["model"], kwargs.get("optimizer"), kwargs.get("lr_scheduler")
        )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Check the gradients, and keep broken ones from the weights."""
        run = self._run
        if run is None or not run.before_update(state.global_step + 1):
            return control
        self._report(state, control, state.global_step + 1)
        if self._ends:
            if run.broken:
                kwargs["model"].zero_grad(set_to_none=True)
            self._end(state, control, state.global_step + 1)
        return control

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Compare the weights when it is time."""
        if self._run is not None:
            self._run.after_update()
            self._report(state, control, state.global_step + 1)
        return control

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Have the first step logged, and no broken step saved."""
        run = self._run
        if run is not None and state.global_step == run.begin + 1:
            run.end_first_step()
            control.should_log = True
        if run is not None and run.end_step():
            self._report(state, control)
        return self._unsaved(control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note that the step has its rows."""
        if self._run is not None:
            self._run.pace.begin_step()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the step out with which a loader starts."""
        if self._run is not None:
            self._run.pace.interrupt()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the evaluation's time out."""
        if self._run is not None:
            self._run.pace.pause()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the checkpoint's time out."""
        if self._run is not None:
            self._run.pace.pause()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Have no broken step saved."""
        return self._unsaved(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        """Judge what is logged."""
        if self._run is not None and logs:
            self._run.logged(state.global_step, logs)
            self._report(state, control)
            self._run.pace.pause()
        return control

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Judge the whole log, and write the results."""
        if self._run is not None:
            self._run.ended()
            self._ended = True  # there is nothing left to end, and no need to say so
            self._report(state, control)
            self._write(state)
            if self._run is not None and state.is_world_process_zero:
                _tell(self._summary(state), logging.INFO)
            self._run = None

    @property
    def _ends(self) -> bool:
        """Return whether a failure ends the training."""
        return self.action != "warn"

    def _summary(self, state: Any) -> str:
        assert self._run is not None
        watched = counted(state.global_step - self._run.begin, "step")
        if not self._reported:
            return f"{watched} watched, nothing found"
        found = sorted(f"{self._run.results[name].check.code} {name}" for name in self._reported)
        return f"{watched} watched, found: {', '.join(found)}"

    def _end(self, state: Any, control: Any, step: int) -> None:
        """End the training as the action says; a process without a finding does it, too."""
        if not self._ended and state.is_world_process_zero:
            _tell(f"step {step}: training ends here (action={self.action!r})")
        self._ended = True
        control.should_training_stop = True
        if self.action == "raise":
            self._write(state)
            run, self._run = self._run, None
            found = (
                [] if run is None else [r for r in run.results.values() if r.status is Status.FAIL]
            )
            raise CheckFailure("\n".join(map(_line, found)) or "another process found a failure")

    def _unsaved(self, control: Any) -> Any:
        if self._ends and self._run is not None and self._run.broken:
            control.should_save = control.should_evaluate = False
            control.should_training_stop = True
        return control

    def _report(self, state: Any, control: Any, step: int | None = None) -> None:
        """Log a line for each new failure and warning; stop the run at a failure if asked to."""
        from trainsanity.live.ranks import several

        run = self._run
        assert run is not None
        new = [
            result
            for name, result in run.results.items()
            if result.status in (Status.FAIL, Status.WARNING) and name not in self._reported
        ]
        step = state.global_step if step is None else step
        for result in new:
            self._reported.add(result.check.name)
            if state.is_world_process_zero:
                _tell(f"step {step}: {_line(result)}")
        if not new:
            return
        self._write(state)
        if self._ends and any(result.status is Status.FAIL for result in new):
            run.stop_everywhere()
            # If one process stopped alone, the others would wait for it.
            if not several() and not run.broken:  # broken gradients are dropped first
                self._end(state, control, step)

    def _write(self, state: Any) -> None:
        """Replace the results file at once, never half of it."""
        if self.results is None or self._run is None or not state.is_world_process_zero:
            return
        text = dumps([self._run.report(time.perf_counter() - self._start)])
        beside = self.results.with_name(f".{self.results.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.results)
        except OSError as error:
            # A full disk is no reason to end a training run.
            logger.warning("the results cannot be written to %s: %s", self.results, error)


def _line(result: Result) -> str:
    """Return a result's first finding in one line."""
    first = result.findings[0]
    parts = (first.headline, first.cause and f"cause: {first.cause}",
             first.fix and f"fix: {first.fix}")  # fmt: skip
    text = "; ".join(part for part in parts if part)
    return clean(f"{result.check.code} {result.check.name}: {' '.join(text.split())}")


def _tell(line: str, level: int = logging.WARNING) -> None:
    """Write a whole line, through logging where that is set up, else to stderr.

    Python's last resort would write into a progress bar's line, and nothing below a warning.
    """
    if logger.hasHandlers():
        logger.log(level, "%s", line)
        return
    # It clears the bars, writes, and draws them again.  No types are published for it.
    tqdm = import_module("tqdm").tqdm
    # Bars are cleared by going back to the start of the line, which a log does not do.
    drawn = not sys.stderr.isatty() and any(getattr(bar, "n", 0) for bar in _bars(tqdm))
    tqdm.write(f"{chr(10) if drawn else ''}trainsanity: {line}", file=sys.stderr)


def _bars(tqdm: Any) -> list[Any]:
    """Return the progress bars that are drawn now."""
    return [bar for bar in getattr(tqdm, "_instances", ()) if not getattr(bar, "disable", True)]


if TYPE_CHECKING:

    class SanityCallback(_Events):
        """See :class:`_Events`."""


def __getattr__(name: str) -> Any:
    """Make ``SanityCallback`` on first access: its base class imports transformers."""
    if name != "SanityCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from transformers import TrainerCallback

    made = type(name, (_Events, TrainerCallback), {"__doc__": _Events.__doc__,
                                                  "__module__": __name__})  # fmt: skip
    globals()[name] = made
    return made
