"""What padding costs at this batch composition, in tokens and, on a GPU, in time."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..alignment import packed
from ..types import Cost, Skip
from .batch import Batch, MicroBatch, quiet
from .state import preserved
from .store import measurement

if TYPE_CHECKING:
    from ..pipeline import Pipeline

MULTIPLES = (1, 8, 16, 64)
"""Settings of ``pad_to_multiple_of`` that the table shows; 1 stands for none."""

REPEATS = 3
"""Timed repeats of each width; the median is kept."""


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
        packed: texts stand one behind the other, and nothing is padded.
    """

    multiple: int | None
    longest: list[int]
    widths: list[int]
    waste: float
    least_waste: float
    stretch: float
    table: dict[int, float]
    packed: bool = False


@measurement(Cost.STATIC)
def padding(batch: Batch, pipeline: Pipeline) -> Padding:
    """Count tokens and positions: waste = 1 - sum(lengths) / sum(rows * padded length)."""
    micros = list(batch)
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
        packed=any(packs),
    )


def round_up(length: Any, multiple: int) -> Any:
    """The least multiple that is not below ``length``, a number or an array of them."""
    return -(-length // multiple) * multiple


def _positions(micros: list[MicroBatch], widths: list[int]) -> int:
    counts = [len(micro.inputs["input_ids"]) for micro in micros]
    return sum(count * width for count, width in zip(counts, widths, strict=True))


@measurement(Cost.BACKWARD)
def padding_times(batch: Batch, padding: Padding, pipeline: Pipeline) -> dict[int, float]:
    """Median seconds of forward + backward of the first micro-batch, by ``pad_to_multiple_of``.

    Empty off the GPU, where width costs what it costs and no alignment helps.  The key 0 is a
    second look at 1, taken in the same rounds: their ratio is the noise.  Without a multiple that
    is wider than the run's own and does not fit on the device.

    Raises:
        Skip: the run's own does not fit without gradient checkpointing.
    """
    settable = hasattr(pipeline.data_collator, "pad_to_multiple_of")
    if pipeline.device.type != "cuda" or not settable:
        return {}
    import torch

    rows = batch.micro_batches[0].rows
    settings = {0: 1, **{m: m for m in (*MULTIPLES, padding.multiple or 1)}}
    with preserved(pipeline), quiet(pipeline):
        from .forward import align_special_tokens

        align_special_tokens(pipeline)
        before = [p.grad for p in pipeline.model.parameters()]
        try:
            made = {}
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
            for _ in range(REPEATS):
                for key, inputs in timed.items():
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                    _forward_backward(pipeline, inputs)
                    torch.cuda.synchronize()
                    taken[key].append(time.perf_counter() - start)
        finally:
            for parameter, gradient in zip(pipeline.model.parameters(), before, strict=True):
                parameter.grad = gradient
    found = {key: statistics.median(values) for key, values in taken.items()}
    times = {key: found.get(shapes[key] if key else 0) for key in settings}
    return {key: seconds for key, seconds in times.items() if seconds is not None}


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
            raise Skip(
                f"{' x '.join(map(str, shape))} tokens do not fit on the device, forward and "
                "backward, without gradient checkpointing: the time of a width cannot be told"
            )
    return None


def _forward_backward(pipeline: Pipeline, inputs: Any) -> None:
    for parameter in pipeline.model.parameters():
        parameter.grad = None
    with pipeline.trainer.accelerator.autocast():
        pipeline.model(**inputs).loss.backward()
