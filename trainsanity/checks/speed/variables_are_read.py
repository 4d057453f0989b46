"""TS002 speed.variables_are_read."""

from __future__ import annotations

from collections.abc import Iterator

from trainsanity.engine.registry import check
from trainsanity.measurements.speed.intent import ReadVariables
from trainsanity.types import Finding, Measured, Severity


@check("TS002", "speed.variables_are_read", rules_out="variables set too late")
def variables_are_read(read_variables: ReadVariables) -> Iterator[Measured | Finding]:
    """Environment variables are set before the library that reads them is loaded.

    What it checks: whether a variable that a library reads once says what the library took it for.

    Why it matters: ``os.environ["OMP_NUM_THREADS"] = "8"`` after ``import torch`` changes nothing,
    and neither does ``PYTORCH_CUDA_ALLOC_CONF`` after the first tensor on a GPU.

    How it is measured: against what the library holds.  OpenMP is asked in a new thread, which has
    the number that was read and not that of ``torch.set_num_threads``; torch's allocator tells by
    what it was configured; huggingface_hub and datasets keep constants; CUDA has as many devices
    as it saw.  ``TOKENIZERS_PARALLELISM`` is read anew by each call, and needs no check.

    How to fix: set the variable in the shell that starts the run, or before the first import.

    Known false alarms: pytest may have imported a library before the module that sets a variable
    for it; in a run of its own that comes first.

    References: the OpenMP specification on ``OMP_NUM_THREADS``; torch's notes on CUDA memory.
    """
    read = read_variables.variables
    for one in read:
        if not one.agrees:
            yield Finding(
                f"{one.name} is {one.value}, and {one.library} has {one.in_use}",
                observed=one.in_use,
                expected=one.value,
                where=one.name,
                cause=f"it was set after {one.library} had read it",
                fix=f"set {one.name} in the shell that starts the run, or before the first import",
                severity=Severity.WARNING,
            )
    named = ", ".join(f"{one.name} {one.in_use}" for one in read)
    yield Measured(
        f"{len(read)} variables that are read once, as their libraries have them"
        + (f": {named}" if named else ""),
        {one.name: one.in_use for one in read},
        {one.name: one.value for one in read},
    )
