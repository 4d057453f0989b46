"""Shared by the checks that compare two runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainsanity.measurements.runs.trace import Trace
from trainsanity.types import Finding

TEXT = ("'", '"')
"""What a text begins with in the words of code."""

LOST = {
    "weights": (
        "the weights are not those that were saved",
        "the checkpoint does not hold all of them, or something writes to them when it is loaded",
        "compare the names in the checkpoint's safetensors files with model.state_dict()",
    ),
    "trainable": (
        "other parameters are trainable than before the cut",
        "parameters are frozen or unfrozen during the run, and not when the model is built",
        "freeze and unfreeze where the model is built, so that a fresh process does it, too",
    ),
    "settings": (
        "attributes of modules differ from those before the cut",
        "a plain attribute changes in training, and no checkpoint holds attributes",
        "register it as a buffer, or compute it from the step",
    ),
    "optimizer": (
        "the optimizer's state differs from that before the cut",
        "it was not saved or not loaded",
        "save_only_model=False, and leave optimizer.pt where the Trainer puts it",
    ),
    "learning rate": (
        "the learning rate differs",
        "the optimizer's groups were not restored, or are built with other rates",
        "build the optimizer alike in every process, or leave it to the Trainer",
    ),
    "scheduler": (
        "the scheduler is at another step",
        "the scheduler's state was not saved or not loaded",
        "give the scheduler a state_dict and a load_state_dict, or leave it to the Trainer",
    ),
    "random numbers": (
        "the random states differ from those of the uninterrupted run",
        "they were not saved or not loaded, so dropout and sampling differ",
        "leave rng_state.pth beside the checkpoint, and seed nothing when the run is resumed",
    ),
}
"""The parts of :func:`.trace.loop_state`, on which the next step depends besides its rows: what is
wrong, the cause, and the fix."""


RENAMED = (
    "weights are not loaded from the checkpoint",
    "from_pretrained knows tensors by renamed keys, the Trainer loads by "
    "load_state_dict(strict=False)",
    "before a run is resumed, override Trainer._load_from_checkpoint and load by "
    "type(model).from_pretrained(...)",
)
"""The same for weights that the library saves by names that it does not load."""


def states(straight: Trace, resumed: Trace) -> dict[str, tuple[Any, Any]]:
    """Return each state at the cut, in the uninterrupted run and in the resumed one.

    A text that has not changed since the model was built is left out of the attributes: names of
    folders differ from one process to the next.  Random states are those of the checkpoint or of
    the uninterrupted run, which may have drawn for batches that it has read ahead.
    """
    found = {name: (straight.moment.get(name), resumed.moment.get(name)) for name in LOST}
    before, after = found["settings"]
    if isinstance(before, dict) and isinstance(after, dict):
        names = {k for k, v in before.items() if straight.built.get(k) == v and v[:1] in TEXT}
        found["settings"] = (
            {k: v for k, v in before.items() if k not in names},
            {k: v for k, v in after.items() if k not in names},
        )
    if drawn_ahead(straight, resumed):
        found["random numbers"] = (straight.saved, straight.saved)
    return found


def drawn_ahead(straight: Trace, resumed: Trace) -> bool:
    """Return whether a batch that is read ahead draws, and the checkpoint has it drawn anew."""
    before, after = (one.moment.get("random numbers") for one in (straight, resumed))
    return before != after and bool(straight.saved) and after == straight.saved


def not_finite(straight: Trace) -> Iterator[Finding]:
    """Yield a finding if a loss or weight of the uninterrupted run is not finite.

    Two runs whose numbers are all NaN are equal bit for bit.
    """
    if straight.broken:
        yield Finding(
            f"{straight.broken}: that two such runs are equal says nothing",
            observed=straight.broken,
            expected="numbers",
            where="the uninterrupted run",
            cause="an operation whose value or derivative is not finite at these rows or weights",
            fix="find the operation with torch.autograd.detect_anomaly",
        )
