"""Cost of padding at this batch composition, in tokens and, on a GPU, in time."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.errors import first_line
from trainsanity.isolation.out_of_memory import out_of_memory
from trainsanity.isolation.shards import in_parts
from trainsanity.isolation.snapshot import preserved
from trainsanity.maths.alignment import packed
from trainsanity.maths.tolerances import STANDARD_ERRORS
from trainsanity.measurements.batches.batch import Batch, MicroBatch, quiet
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainsanity.pipeline import Pipeline

MULTIPLES = (1, 8, 16, 64)
"""Settings of ``pad_to_multiple_of`` that the table shows; 1 stands for none."""

USUAL_MULTIPLE = 8
"""The multiple that tensor cores want for 16-bit types (NVIDIA's guide), and the one advised."""

TIMED = (1, USUAL_MULTIPLE)
"""Settings that are timed beside the run's own: each costs three steps of the model."""

REPEATS, LONG_ENOUGH = 3, 0.5
"""Rounds that are timed at the least, and seconds that a round's width is timed for in all: where a
pass takes milliseconds the clock is noisy, and more of them cost nothing.  No measurement: half a
second is what three passes of a large model take."""


@dataclass(frozen=True)
class PaddingTimes:
    """Cost of a width on this device.

    Attributes:
        seconds: median of forward + backward of the first micro-batch, by ``pad_to_multiple_of``
            (1 for none); without a multiple that is wider than the run's own and does not fit on
            the device.  Empty off the GPU, where no alignment helps.
        noise: what one ratio of these seconds differs from another by chance, see :func:`noise`.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    noise: float = 0.0


@dataclass(frozen=True)
class Padding:
    """Padded lengths and what they waste.

    Attributes:
        multiple: the collator's ``pad_to_multiple_of``; None if it has none, or no such setting.
        longest: longest row of each micro-batch; its width where rows are packed.
        widths: padded length of each micro-batch.
        waste: share of positions that are padding, now.
        least_waste: the same if every micro-batch were padded to its longest row.
        stretch: padded tokens now / at the least.
        table: the waste for each of :data:`MULTIPLES`.
        aligned: the stretch that :data:`USUAL_MULTIPLE` makes of these rows.
        packed: texts stand one behind the other.
        stored: the dataset's rows are as wide as the batches: no collator chose that width.
    """

    multiple: int | None
    longest: list[int]
    widths: list[int]
    waste: float
    least_waste: float
    stretch: float
    table: dict[int, float]
    aligned: float = 1.0
    packed: bool = False
    stored: bool = False


@measurement(Cost.STATIC)
def padding(batch: Batch, pipeline: Pipeline) -> Padding:
    """Count tokens and positions: waste = 1 - sum(lengths) / sum(rows * padded length)."""
    micros = list(batch)
    batch.require_placed()
    packs = [packed(micro.rows, micro.inputs) for micro in micros]
    longest = [
        micro.width if packs_it else max(micro.lengths)
        for micro, packs_it in zip(micros, packs, strict=True)
    ]
    widths = [micro.width for micro in micros]
    now = _positions(micros, widths)
    tokens = sum(batch.lengths)
    multiple = getattr(pipeline.data_collator, "pad_to_multiple_of", None)
    return Padding(
        multiple=multiple,
        longest=longest,
        widths=widths,
        waste=1 - tokens / now,
        least_waste=1 - tokens / _positions(micros, longest),
        stretch=now / _positions(micros, longest),
        table={
            m: 1 - tokens / _positions(micros, [round_up(n, m) for n in longest]) for m in MULTIPLES
        },
        aligned=_positions(micros, [round_up(n, USUAL_MULTIPLE) for n in longest])
        / _positions(micros, longest),
        packed=any(packs),
        stored=all(_stored(micro) for micro in micros),
    )


def _stored(micro: MicroBatch) -> bool:
    stored = [row.get("input_ids") for row in micro.rows]
    return all(
        isinstance(ids, Sized) and not isinstance(ids, str) and len(ids) == micro.width
        for ids in stored
    )


def round_up(length: Any, multiple: int) -> Any:
    """Return the least multiple that is not below ``length``, a number or an array."""
    return -(-length // multiple) * multiple


def _positions(micros: list[MicroBatch], widths: list[int]) -> int:
    counts = [len(micro.inputs["input_ids"]) for micro in micros]
    return sum(count * width for count, width in zip(counts, widths, strict=True))


@measurement(Cost.BACKWARD)
def padding_times(batch: Batch, padding: Padding, pipeline: Pipeline) -> PaddingTimes:
    """Time forward and backward of the first micro-batch at each ``pad_to_multiple_of``.

    Raises:
        Skip: the run's own does not fit, the model is sharded, or the loss needs ``train()``.
    """
    settable = hasattr(pipeline.data_collator, "pad_to_multiple_of")
    if pipeline.device.type != "cuda" or not settable:
        return PaddingTimes()
    if in_parts(pipeline.model):
        raise Skip("how long a width takes is not measured on a model in parts: processes would "
                   "have to stop at the same time")  # fmt: skip
    import torch

    return timed_settings(batch, padding, pipeline, torch.cuda.synchronize)


def timed_settings(
    batch: Batch, padding: Padding, pipeline: Pipeline, synchronize: Callable[[], None]
) -> PaddingTimes:
    """Time the same, where ``synchronize`` waits until the device has finished."""
    rows = batch.micro_batches[0].sources
    # The key 0 is a second measurement of 1, taken in the same rounds.
    settings = {0: 1, **{m: m for m in (*TIMED, padding.multiple or 1)}}
    with preserved(pipeline), quiet(pipeline):
        from trainsanity.measurements.batches.special_tokens import align_special_tokens

        align_special_tokens(pipeline)
        before = [p.grad for p in pipeline.model.parameters()]
        modes = [(module, module.training) for module in pipeline.model.modules()]
        try:
            made = {}
            pipeline.model.train()
            for key, multiple in settings.items():
                collator = copy.copy(pipeline.data_collator)
                collator.pad_to_multiple_of = multiple
                made[key] = pipeline.trainer._prepare_inputs(collator(copy.deepcopy(rows)))
            shapes = {key: tuple(inputs["input_ids"].shape) for key, inputs in made.items()}
            # Settings that make batches of one shape are timed as one, but for the noise's.
            timed: dict[Any, Any] = {shapes[key]: made[key] for key in settings if key}
            timed[0] = made[0]
            _warm_up(pipeline, timed, shapes[padding.multiple or 1])
            taken: dict[Any, list[float]] = {key: [] for key in timed}
            while len(taken[0]) < REPEATS or sum(taken[0]) < LONG_ENOUGH:
                for key, inputs in timed.items():
                    synchronize()
                    start = time.perf_counter()
                    _forward_backward(pipeline, inputs)
                    synchronize()
                    taken[key].append(time.perf_counter() - start)
        finally:
            for parameter, gradient in zip(pipeline.model.parameters(), before, strict=True):
                parameter.grad = gradient
            for module, mode in modes:
                module.training = mode
    by_setting = {key: taken[shapes[key]] for key in settings if key and shapes[key] in taken}
    return PaddingTimes(
        {key: statistics.median(values) for key, values in by_setting.items()},
        noise(by_setting[1], taken[0], by_setting[padding.multiple or 1]),
    )


def noise(one: list[float], again: list[float], own: list[float]) -> float:
    """Return how far a ratio of medians is off by chance: the larger of two estimates.

    One is the ratio of two measurements of one width.  The other is :data:`STANDARD_ERRORS`
    standard errors of the ratio: of a median of n values that is sqrt(pi / 2 / n) times their
    standard deviation, which is 1.4826 times their median absolute deviation (both for a normal
    spread).

    Args:
        one: seconds at no multiple.
        again: seconds at no multiple, too, taken in the same rounds.
        own: at the run's own multiple.
    """
    middle = statistics.median(one)
    apart = abs(statistics.median(again) / middle - 1)
    return max(apart, STANDARD_ERRORS * math.hypot(_error(one), _error(own)) / middle)


def _error(values: list[float]) -> float:
    middle = statistics.median(values)
    deviation = statistics.median(abs(value - middle) for value in values)
    return 1.4826 * deviation * math.sqrt(math.pi / 2 / len(values))


def _warm_up(pipeline: Pipeline, timed: dict[Any, Any], own: tuple[int, ...]) -> None:
    """Run the largest batch, whose memory will do for all; without one that does not fit.

    A multiple that nobody trains with may be wider than the device has room for.
    """
    import torch

    for shape in sorted((key for key in timed if key), reverse=True):
        try:
            return _forward_backward(pipeline, timed[shape])
        except torch.OutOfMemoryError:
            del timed[shape]
        torch.cuda.empty_cache()
        if shape <= own:
            modules = pipeline.model.modules()
            checkpointed = any(getattr(one, "gradient_checkpointing", False) for one in modules)
            without = "" if checkpointed else ", without gradient checkpointing"
            raise Skip(
                f"{' x '.join(map(str, shape))} tokens do not fit on the device, forward and "
                f"backward{without}: the time of a width cannot be measured"
            )
    return None


def _forward_backward(pipeline: Pipeline, inputs: Any) -> None:
    """Take the Trainer's own loss, as ``training_step`` does, and differentiate it.

    Raises:
        Skip: a ``compute_loss`` of the user's own needs what is there inside ``train()`` alone.
    """
    trainer = pipeline.trainer
    for parameter in pipeline.model.parameters():
        parameter.grad = None
    try:
        with trainer.accelerator.autocast(), trainer.compute_loss_context_manager():
            # It may take labels out of the batch, which is used again.
            loss = trainer.compute_loss(pipeline.model, copy.copy(inputs))
        loss.mean().backward()
    except Exception as error:
        if out_of_memory(error) is not None:
            raise
        raise Skip(
            "how long a width takes is not measured: the loss cannot be asked outside of train(), "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
