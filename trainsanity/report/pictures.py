"""Contents of the pictures of a report, as JSON values.

A picture takes no measurement: it shows the values of those that the checks took, and where one is
missing it says why.  It is collected while the pipeline is alive; drawing it (``figures.py``) needs
the values alone.
"""

from __future__ import annotations

import inspect
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.session import Session
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.report.json import json_value
from trainsanity.report.tokens import excerpt
from trainsanity.types import Skip

if TYPE_CHECKING:
    from trainsanity.measurements.batches.batch import Batch
    from trainsanity.measurements.batches.padding import Padding
    from trainsanity.measurements.data.economics import Economics
    from trainsanity.measurements.data.scan import Scan
    from trainsanity.measurements.data.supervised import Supervised
    from trainsanity.measurements.model.forward import Forward
    from trainsanity.measurements.speed.figures import Clocked
    from trainsanity.measurements.step.schedule import Schedule
    from trainsanity.measurements.step.steps import Recording
    from trainsanity.pipeline import Pipeline

POINTS = 400
"""Elements of the head's gradient in the scatter: more cover each other and make the file heavy."""

EARLY = (1, 2, 10, 20, 100)
"""Steps, counted from 1 as the Trainer logs them, that are named on the learning-rate curve."""


@dataclass(frozen=True)
class Picture:
    """One picture in JSON values.

    Attributes:
        name: also the name of the function that draws it.
        stage: where it is shown.
        title: its heading.
        sentence: what it shows, in words and numbers.
        columns, rows: the same as a table.
        values: what else the drawing needs.
        reason: why there is none; then all the others are empty.
    """

    name: str
    stage: str
    title: str
    sentence: str = ""
    columns: tuple[str, ...] = ()
    rows: Sequence[Sequence[Any]] = ()
    values: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Shown:
    """The parts of a :class:`Picture` that come from measurements, as a collector returns them."""

    sentence: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    values: dict[str, Any] = field(default_factory=dict)


Collector = Callable[..., Shown]
_collectors: list[tuple[str, str, Collector]] = []
_unasked: set[str] = set()


def picture(
    stage: str, title: str, *, of_the_gate: bool = True
) -> Callable[[Collector], Collector]:
    """Register a collector; its parameters name measurements, as those of a check do.

    Where it shows what the gate does not measure, it is left out of a page that has nothing of it.
    """

    def register(fn: Collector) -> Collector:
        _collectors.append((stage, title, fn))
        if not of_the_gate:
            _unasked.add(fn.__name__)
        return fn

    return register


def pictures_of(pipeline: Pipeline) -> tuple[Picture, ...]:
    """Return all pictures of a pipeline that was judged, in stage order."""
    every = (_collected(pipeline, *one) for one in _collectors)
    return tuple(one for one in every if not (one.reason and one.name in _unasked))


def _collected(pipeline: Pipeline, stage: str, title: str, fn: Collector) -> Picture:
    name = fn.__name__
    try:
        shown = fn(**_measured(pipeline, fn))
    except Skip as skip:
        return Picture(name, stage, title, reason=str(skip))
    except Exception as error:
        # The verdict does not depend on it: a report must not be lost to one of its pictures.
        return Picture(name, stage, title, reason=f"{type(error).__name__}: {error}")
    rows, values = json_value(list(shown.rows)), json_value(shown.values)
    return Picture(name, stage, title, shown.sentence, shown.columns, rows, values)


def _measured(pipeline: Pipeline, fn: Collector) -> dict[str, Any]:
    """Return the measurements that a collector names; one with a default may be missing."""
    measured = {}
    for name, parameter in inspect.signature(fn).parameters.items():
        try:
            measured[name] = Session.of(pipeline).measurements.taken(name)
        except Skip:
            if parameter.default is inspect.Parameter.empty:
                raise
    return measured


@picture("collator", "Token lengths and what padding wastes")
def lengths(
    batch: Batch, padding: Padding, scan: Scan | None = None, economics: Economics | None = None
) -> Shown:
    """Show tokens per row, and the share of padding by ``pad_to_multiple_of``.

    They are those of the whole dataset where it was read, or else of the first optimizer step.
    """
    import numpy

    if scan is not None:
        histogram, of = scan.train.histogram, scan.train.counted
    else:
        histogram, of = numpy.bincount(batch.lengths), f"the {len(batch.lengths)} rows of step 1"
    edges, counts = binned(histogram)
    mean = float(histogram @ numpy.arange(len(histogram)) / histogram.sum())
    multiple = padding.multiple or 1
    waste = padding.table if economics is None else economics.now
    rows = [
        (
            _multiple(m, multiple),
            f"{padding.table[m]:.1%}" if m in padding.table else "",
            *(
                []
                if economics is None
                else (f"{x[m]:.1%}" for x in (economics.drawn, economics.grouped))
            ),
        )
        for m in sorted(waste)
    ]
    expected = () if economics is None else ("drawn at random", "grouped by length")
    return Shown(
        f"{of}: {numpy.flatnonzero(histogram)[0]} to {len(histogram) - 1} tokens, mean {mean:.1f}. "
        f"{padding.waste:.1%} of the positions of step 1 are padding, {padding.least_waste:.1%} "
        "at the least",
        ("pad_to_multiple_of", "step 1", *expected),
        rows,
        {
            "edges": edges,
            "counts": counts,
            "waste": {_multiple(m, multiple): waste[m] for m in sorted(waste)},
            "set": _multiple(multiple, multiple),
            "of": "over the dataset" if economics is not None else "in step 1",
        },
    )


def binned(histogram: Any, most: int = 30) -> tuple[list[int], list[int]]:
    """Return edges and counts of at most ``most`` bins of equal width, from counts by length."""
    import numpy

    low = int(numpy.flatnonzero(histogram)[0])
    width = -(-(len(histogram) - low) // most)
    edges = numpy.arange(low, len(histogram) + width, width)
    padded = numpy.concatenate([histogram, numpy.zeros(edges[-1] - len(histogram), int)])
    return edges.tolist(), numpy.add.reduceat(padded, edges[:-1]).tolist()


def _multiple(m: int, now: int) -> str:
    return ("none" if m == 1 else str(m)) + (" (set)" if m == now else "")


@picture("collator", "What the model is given: tokens, mask and labels")
def tokens(batch: Batch, pipeline: Pipeline) -> Shown:
    """Show rows of the first micro-batch, where mask or loss change."""
    from trainsanity.measurements.batches.supervision import supervision

    # Only decodes what the batch holds.
    counted = supervision(pipeline, batch)
    columns, tables = excerpt(counted)
    return Shown(
        f"{len(tables)} of the {len(counted.rows)} rows of the first micro-batch; the loss counts "
        f"{counted.items} {counted.counts} of it",
        columns,
        [row for table in tables for row in table["rows"]],
        {"tables": tables},
    )


@picture("collator", "What is trained, by the role of its message")
def trained(supervised: Supervised) -> Shown:
    """Show the share of each role's tokens that are targets, and rows by their share."""
    roles = {name: row for name, row in sorted(supervised.roles.items()) if row[0]}
    bins = len(supervised.histogram)
    return Shown(
        f"{supervised.counted:,} of {supervised.tokens:,} tokens are targets, in "
        f"{supervised.source}; {supervised.silent:,} rows have none, and of {supervised.full:,} "
        "every token is one",
        ("role", "tokens", "targets", "share"),
        [(n, f"{t:,}", f"{c:,}", f"{c / t:.2%}") for n, (t, c) in roles.items()],
        {
            "roles": list(roles),
            "shares": [counted / tokens for tokens, counted in roles.values()],
            "edges": [k / bins for k in range(bins + 1)],
            "rows": supervised.histogram,
        },
    )


@picture("loss", "Loss of each example against the uninformed band")
def losses(forward: Forward, pipeline: Pipeline, recording: Recording | None = None) -> Shown:
    """Show the losses of the first step's rows, sorted, beside those of an uninformed head."""
    from trainsanity.measurements.data.label_prior import label_prior

    z, labels = forward.logits, forward.labels.tolist()
    prior = label_prior(pipeline, z.shape[1])
    known = (z * prior).sum(-1)
    uninformed = float((z.logsumexp(-1) - known).mean())
    spread = ((z * z * prior).sum(-1) - known**2).clamp(min=0)
    band = STANDARD_ERRORS * float(spread.sum().sqrt()) / len(spread)
    each = [float(loss) for loss in forward.losses]
    order = sorted(range(len(each)), key=each.__getitem__)
    mean = statistics.fmean(each)
    place = "inside" if abs(mean - uninformed) <= band else "outside"
    logged = None if recording is None else recording.first.logged.get("loss")
    trainer = "" if logged is None else f"; the Trainer logs {logged:.3f} for this step"
    return Shown(
        f"mean {mean:.3f} over {len(each)} examples, {place} the band {uninformed:.3f} "
        f"± {band:.3f} in which the mean of an uninformed head lies; "
        f"log {z.shape[1]} = {math.log(z.shape[1]):.3f}{trainer}",
        ("example", "label", "loss"),
        [(i + 1, labels[i], round(each[i], 4)) for i in order],
        {
            "losses": [each[i] for i in order],
            "mean": mean,
            "uninformed": uninformed,
            "band": band,
            "log_classes": math.log(z.shape[1]),
        },
    )


@picture("gradient", "The head's accumulated gradient against its closed form")
def slope(pipeline: Pipeline, recording: Recording) -> Shown:
    """Show elements of the head's gradient as accumulated, over their closed form."""
    from trainsanity.maths.regression import regress
    from trainsanity.measurements.step.closed_form import closed_form

    gradient = recording.first.head_gradient
    if gradient is None:
        raise Skip("the head received no gradient in the first step")
    exact = closed_form(pipeline, recording.head_name, recording.first)
    by, cosine = regress(gradient, exact)
    x, y = exact.flatten().tolist(), gradient.double().flatten().tolist()
    # Even steps of rank keep the few large elements beside the many small ones.
    order = sorted(range(len(x)), key=x.__getitem__)
    count = min(POINTS, len(order))
    picked = [order[round(k * (len(order) - 1) / max(count - 1, 1))] for k in range(count)]
    return Shown(
        f"slope {by:.4f} (1 is right), cosine {cosine:.6f}, over {len(x):,} elements of "
        f"{recording.head_name}.weight",
        ("", "accumulated", "closed form"),
        [
            ("norm", f"{float(gradient.double().norm()):.6g}", f"{float(exact.norm()):.6g}"),
            ("largest element", f"{max(map(abs, y)):.6g}", f"{max(map(abs, x)):.6g}"),
            ("slope", f"{by:.6f}", "1"),
            ("cosine", f"{cosine:.8f}", "1"),
        ],
        {"x": [x[i] for i in picked], "y": [y[i] for i in picked], "slope": by},
    )


@picture("update", "Share of the weights that move, by layer")
def movement(recording: Recording) -> Shown:
    """Show the share of elements that change in a step at the peak rate, and that could."""
    update = recording.update
    layers: dict[str, list[int]] = {}
    for p in update.parameters:
        row = layers.setdefault(layer_of(p.name), [0, 0, 0])
        for k, value in enumerate((p.with_gradient, p.moved, p.can_move)):
            row[k] += value
    moving = {name: row for name, row in layers.items() if row[0]}
    if not moving:
        raise Skip("no element has a gradient, so none could move")
    touched, moved, able = (sum(row[k] for row in moving.values()) for k in range(3))
    still = len(layers) - len(moving)
    return Shown(
        f"a step at the peak rate {update.rate:g} changes {moved / touched:.2%} of {touched:,} "
        f"elements with a gradient; the dtype alone predicts {able / touched:.2%}"
        + (f"; {still} of {len(layers)} layers have no gradient" if still else ""),
        ("layer", "elements with a gradient", "move", "predicted from the dtype"),
        [(n, f"{r[0]:,}", f"{r[1] / r[0]:.2%}", f"{r[2] / r[0]:.2%}") for n, r in moving.items()],
        {
            "layers": list(moving),
            "moved": [row[1] / row[0] for row in moving.values()],
            "predicted": [row[2] / row[0] for row in moving.values()],
        },
    )


@picture("schedule", "Learning rate over the run")
def learning_rate(schedule: Schedule, pipeline: Pipeline) -> Shown:
    """Show the curve that the arguments describe, and where the first steps stand on it."""
    done = 0 if pipeline.trainer is None else pipeline.trainer.state.global_step
    steps = [*dict.fromkeys(k for k in (done + 1, *EARLY) if k - 1 in schedule.curve)]
    shares = {k: schedule.curve[k - 1] / schedule.peak for k in steps} if schedule.peak else {}
    return Shown(
        f"{schedule.warmup_steps:,} warm-up steps of {schedule.max_steps:,} to a peak of "
        f"{schedule.peak:g}; the run stands at step {done + 1}, "
        + (f"at {shares[done + 1]:.2%} of the peak" if done + 1 in shares else "off the curve"),
        ("step", "learning rate", "of the peak"),
        [(k, f"{schedule.curve[k - 1]:.4g}", f"{share:.2%}") for k, share in shares.items()],
        {
            "steps": [k + 1 for k in schedule.curve],
            "rates": list(schedule.curve.values()),
            "warmup_steps": schedule.warmup_steps,
            "stands": [done + 1, schedule.curve.get(done)],
        },
    )


@picture("speed", "Where a step's time goes", of_the_gate=False)
def step_parts(clocked: Clocked) -> Shown:
    """Show the share of each part of a step, and what other settings make of the whole."""
    names = [name for name in clocked.parts if clocked.share(name) >= 0.0005]
    shares = {name: clocked.share(name) for name in names}
    rows = [(n, f"{shares[n] * clocked.seconds:.3g} s", f"{shares[n]:.1%}") for n in names]
    rows += [(f"with {one.kind} {one.name}", "", str(one.ratio)) for one in clocked.alternatives]
    rates = ", ".join(f"{n:,.4g} {name.replace('_', ' ')}" for name, n in clocked.rates.items())
    return Shown(
        f"a step takes {clocked.seconds:.3g} ± {clocked.error:.1g} s over {len(clocked.steps)} "
        f"steps; {rates} a second",
        ("part", "seconds", "of the step"),
        rows,
        {"names": names, "shares": [shares[name] for name in names]},
    )


def layer_of(parameter: str) -> str:
    """Return the block of a parameter: its path up to the first number, or its module."""
    parts = parameter.split(".")
    numbers = [k for k, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1]) or parameter
