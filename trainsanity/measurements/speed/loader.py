"""Steps with more workers that load their rows, beside those of the run."""

from __future__ import annotations

import math
import os
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.fields import is_indexable
from trainsanity.maths.repetitions import WORTH, Ratio
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.speed import clock as part
from trainsanity.measurements.speed.clocked import clock_trainer
from trainsanity.measurements.speed.figures import Alternative, Clocked
from trainsanity.types import OUTCOMES, Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

MOST = 4
"""Workers that are tried, where the machine has as many processors: chosen, a usual number."""

PREFETCH = 2
"""Batches that each of torch's workers has ready, unless it is told otherwise."""

STEPS = 3
"""Steps that are timed with the workers, and again without: the fewest that show a spread."""


@dataclass(frozen=True)
class Loading:
    """How long steps wait for their rows, and what workers make of that.

    Attributes:
        share: of a step, spent in waiting for the loader, the collator included.
        seconds: the same for each step.
        collator: share of a step that the collator takes, where it runs in this process.
        workers: as the run has them.
        alternative: with more of them; None where there is no point, or none was tried.
        untried: why none was tried, though the wait is long; empty otherwise.
    """

    share: float
    seconds: float
    collator: float
    workers: int
    alternative: Alternative | None = None
    untried: str = ""


@measurement(Cost.RUN)
def loading(pipeline: Pipeline, clocked: Clocked) -> Loading:
    """Take steps with more workers, if the steps wait for their rows at all.

    Raises:
        Skip: there is no Trainer.
    """
    if pipeline.trainer is None:
        raise Skip("a custom training loop reads its rows itself")
    share = clocked.share(part.WAIT, part.COLLATOR)
    workers = pipeline.args.dataloader_num_workers
    taken = (share, share * clocked.seconds, clocked.share(part.COLLATOR), workers)
    if share <= WORTH:
        return Loading(*taken)
    if not is_indexable(pipeline.train_dataset):
        return Loading(*taken, untried="the rows are a stream, which each worker would read whole")
    count = 2 * workers or min(MOST, max(os.cpu_count() or 1, 1))
    try:
        ratio = _ratio(pipeline, clocked, count)
    except OUTCOMES as why:
        return Loading(*taken, untried=str(why))
    except Exception as error:  # a collator that cannot be sent to a process, for one
        said = f"{count} workers raised {type(error).__name__}: {first_line(error)}"
        return Loading(*taken, untried=said)
    found = Alternative("loader", f"{count} workers", f"{workers} workers", ratio)
    return Loading(*taken, alternative=found)


def _ratio(pipeline: Pipeline, clocked: Clocked, count: int) -> Ratio:
    settings: dict[str, Any] = {"dataloader_num_workers": count}
    ready = count * (pipeline.args.dataloader_prefetch_factor or PREFETCH)
    # What the workers have made ready before the first step ends takes no time of the next ones.
    warm = 1 + math.ceil(ready / pipeline.args.gradient_accumulation_steps)
    with warnings.catch_warnings():
        # Python 3.12 and newer warn of forking beside torch's threads; the Trainer forks, too.
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        other = clock_trainer(pipeline, STEPS, settings=settings, warm=warm)
        again = clock_trainer(pipeline, STEPS)
    if len(other.steps) < 2 or len(again.steps) < 2:
        raise Skip("the run ends before so many steps could be timed")
    own = [*clocked.steps, *again.steps]
    value = statistics.fmean(other.steps) / statistics.fmean(own)
    drift = abs(again.seconds / clocked.seconds - 1)
    error = math.hypot(_relative_error(other.steps), _relative_error(own))
    return Ratio(value, value * max(drift, STANDARD_ERRORS * error), len(other.steps))


def _relative_error(values: Sequence[float]) -> float:
    return float(statistics.stdev(values) / len(values) ** 0.5 / statistics.fmean(values))
