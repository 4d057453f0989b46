"""Resume a run in a fresh process, beside an uninterrupted one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.store import measurement
from trainsanity.isolation.overrides import own_methods
from trainsanity.isolation.snapshot import snapshot_bytes
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.runs.rows_read import draws, rows_of
from trainsanity.measurements.runs.trace import (
    CannotSave,
    Plan,
    Trace,
    max_weight_difference,
    plan_of,
    trace,
)
from trainsanity.pipeline import is_adapted
from trainsanity.types import Cost, Skip

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

BUILDING = 600.0
"""Seconds that a fresh process has to build the pipeline: a large checkpoint on a slow disk takes
minutes."""

SLOWER = 10.0
"""How many times the uninterrupted run's time it may take besides: it shares the machine."""


@dataclass
class Ended:
    """How a fresh process ended.

    Attributes:
        trace: its record; None if it did not finish.
        error: what it raised, or its exit code and last line.
        killed: the number of the signal that ended it.
    """

    trace: Trace | None = None
    error: str = ""
    killed: int | None = None


@dataclass
class Resumed:
    """Two runs over the same steps.

    Attributes:
        plan: where the second run was cut.
        straight: the uninterrupted run in this process, which saved at the cut.
        fresh: the run that was resumed from that checkpoint.
        files: names in the checkpoint.
        renamed: parameters that the checkpoint does not hold by the model's own names, where the
            library's own Trainer saves and loads it.
        draws: batches of the two differ, and making one draws random numbers; None if unknown.
        difference: the largest difference between their final weights; 0 if all bits are equal.
        noise: the same between two uninterrupted runs; measured only if there is a difference.
    """

    plan: Plan
    straight: Trace
    fresh: Ended
    files: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    draws: bool | None = None
    difference: float = 0.0
    noise: float = 0.0


@measurement(Cost.RUN)
def resumed(pipeline: Pipeline) -> Resumed:
    """Train, save in the middle and go on; then resume in a fresh process.

    Raises:
        Skip: there is no Trainer, no command that builds it again, or no room.
    """
    plan = _plan(pipeline)
    with _folder(pipeline, saves=1) as folder:
        begin = time.perf_counter()
        try:
            straight = trace(pipeline, plan, folder, saves=(plan.cut,))
        except CannotSave as error:
            return Resumed(plan, Trace(), Ended(error=f"the checkpoint cannot be saved: {error}"))
        seconds = time.perf_counter() - begin
        checkpoint = Path(folder, f"checkpoint-{plan.cut}")
        files = sorted(file.name for file in checkpoint.glob("*"))
        _empty_cache()
        fresh = in_fresh_process(
            pipeline, plan, folder, seconds, resume=str(checkpoint), batches=straight.batches
        )
        seen = Resumed(plan, straight, fresh, files, _renamed(pipeline, checkpoint))
        if fresh.trace is not None:
            _name_rows(pipeline, seen, fresh.trace)
        if fresh.trace is not None and fresh.trace.end != straight.end:
            seen.difference = max_weight_difference(straight, fresh.trace)
            with scratch() as other:
                seen.noise = max_weight_difference(straight, trace(pipeline, plan, other))
    return seen


SAVING = ("save_model", "_save", "_save_checkpoint", "_load_from_checkpoint")
"""The Trainer's methods that write and read the weights of a checkpoint."""


def _renamed(pipeline: Pipeline, checkpoint: Path) -> list[str]:
    """Return parameters that the files of the library's own Trainer have under other names.

    Tied ones are held by the name of one.
    """
    from safetensors import safe_open

    files = [*checkpoint.glob("*.safetensors")]
    if own_methods(pipeline.trainer, SAVING) or is_adapted(pipeline.model) or not files:
        return []
    held: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as opened:
            held |= {*opened.keys()}
    return [name for name, _ in pipeline.model.named_parameters() if name not in held]


def _name_rows(pipeline: Pipeline, seen: Resumed, fresh: Trace) -> None:
    """Note the rows of the uninterrupted run, and whether making them draws, if batches differ."""
    straight = seen.straight
    others = [k for k in fresh.batches if straight.batches.get(k) != fresh.batches[k]]
    if others:
        straight.rows = rows_of(pipeline, straight.batches, straight.sources)
        sources = [straight.sources.get(name) for name in straight.batches.get(others[0], ())]
        source = next((one for one in sources if one is not None), None)
        seen.draws = None if source is None else draws(pipeline, source)
    straight.sources.clear()  # which hold datasets


@dataclass
class Interrupted:
    """A run that is killed while it saves, and resumed.

    Attributes:
        plan: the last step is the one after which it was killed.
        killed: how that process ended.
        files: names in the half-written checkpoint.
        complete: names in the checkpoint before it.
        chosen: the name of the checkpoint that ``get_last_checkpoint`` returns.
        straight: a run that was never killed, up to the step after the saved one.
        resumed: how the process ended that resumed from the chosen checkpoint.
    """

    plan: Plan
    killed: Ended
    files: list[str]
    complete: list[str]
    chosen: str
    straight: Trace
    resumed: Ended


@measurement(Cost.RUN)
def interrupted(pipeline: Pipeline) -> Interrupted:
    """Kill a fresh process in the middle of saving, and resume from what it has written.

    Raises:
        Skip: as for :func:`resumed`.
    """
    from transformers.trainer_utils import get_last_checkpoint

    plan = _plan(pipeline)
    # The plan has one step more than the killed run takes: the step that is compared.
    last = plan.steps - 1
    with _folder(pipeline, saves=2) as folder:
        begin = time.perf_counter()
        with scratch() as other:
            straight = trace(pipeline, dataclasses.replace(plan, cut=last), other)
        seconds = time.perf_counter() - begin
        _empty_cache()
        half = Path(folder, f"checkpoint-{last}")
        killed = in_fresh_process(
            pipeline, plan, folder, seconds, saves=[plan.cut, last], kill=str(half)
        )
        chosen = get_last_checkpoint(folder) or ""
        seen = Interrupted(
            plan,
            killed,
            sorted(file.name for file in half.glob("*")),
            sorted(file.name for file in Path(folder, f"checkpoint-{plan.cut}").glob("*")),
            Path(chosen).name,
            straight,
            Ended(),
        )
        if killed.killed and chosen == str(half):
            going_on = dataclasses.replace(plan, cut=last)
            seen.resumed = in_fresh_process(pipeline, going_on, folder, seconds, resume=chosen)
    return seen


def _plan(pipeline: Pipeline) -> Plan:
    if pipeline.trainer is None:
        raise Skip("a custom training loop has no checkpoints that could be judged")
    if pipeline.other_processes:
        raise Skip("judged in one process: run it once without torchrun")
    if not pipeline.command:
        raise Skip(
            "a fresh process cannot build this pipeline: only trainsanity run, or a PipelineSpec "
            "with a command, says how"
        )
    if not pipeline.rebuilt:
        raise Skip(
            "a fresh process cannot build this pipeline alone: it is trained in a process that the "
            "script or command starts"
        )
    return plan_of(pipeline)


@contextlib.contextmanager
def _folder(pipeline: Pipeline, saves: int) -> Iterator[str]:
    """Yield a temporary folder with room for this many checkpoints."""
    with scratch() as folder:
        # AdamW saves two float32 moments for each weight.
        trained = sum(p.numel() for p in pipeline.model.parameters() if p.requires_grad)
        needed = saves * (snapshot_bytes(pipeline) + 8 * trained)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise Skip(
                f"{tempfile.gettempdir()} has {free / 2**30:.1f} GiB free, and checkpoints of this "
                f"run need {needed / 2**30:.1f}: set TMPDIR to a larger disk"
            )
        yield folder


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_fresh_process(
    pipeline: Pipeline,
    plan: Plan,
    output: str,
    seconds: float,
    *,
    resume: str | None = None,
    saves: list[int] | None = None,
    batches: dict[int, list[str]] | None = None,
    kill: str | None = None,
) -> Ended:
    """Build the pipeline again in another process and train it there.

    Args:
        pipeline: the one here.
        plan: of the run there.
        output: its folder.
        seconds: what as many steps take here.
        resume: the checkpoint that it begins with.
        saves: the steps after which it saves.
        batches: those of another run; it names the rows of its own where they differ.
        kill: the checkpoint in the midst of which it ends.

    Raises:
        Skip: it could not be built or run there, or does not fit beside the one here.
    """
    import torch

    request = {
        "command": list(pipeline.command),
        "path": sys.path,
        "threads": torch.get_num_threads(),
        "plan": dataclasses.asdict(plan),
        "output": output,
        "resume": resume,
        "saves": saves or [],
        "batches": batches or {},
        "kill": kill,
    }
    with scratch() as folder:
        path = Path(folder, "request.json")
        path.write_text(json.dumps(request), encoding="utf-8")
        code, last = _run(path, BUILDING + SLOWER * seconds)
        report_file = path.with_name("report.json")
        if not report_file.is_file():
            signalled = -code if code and code < 0 else None
            how = "took too long and was ended" if code is None else f"ended with code {code}"
            return Ended(error=f"{how}; its last line: {last or 'none'}", killed=signalled)
        report = json.loads(report_file.read_text(encoding="utf-8"))
        if "unusable" in report and not report.get("built"):
            raise Skip(f"a fresh process could not build the pipeline: {report['unusable']}")
        if "skip" in report:
            raise Skip(f"in a fresh process: {report['skip']}")
        if "OutOfMemoryError" in report.get("error", ""):
            raise Skip("a second process with the same model does not fit beside this one")
        if "trace" not in report:
            error = report.get("error") or report.get("unusable", "")
            # The name of the temporary folder differs each time.
            return Ended(error=error.replace(output, "output_dir"))
        return Ended(trace=_trace_of(report["trace"], folder))


def _run(request: Path, limit: float) -> tuple[int | None, str]:
    """Return ``(exit code, last line)``; the code is None if the time limit ended it."""
    noise = request.with_name("output.txt")
    # A killed process does not remove its temporary files; inside ours they are removed.
    scratch = request.with_name("tmp")
    scratch.mkdir()
    with noise.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.fresh", str(request)],
            env={**os.environ, "TMPDIR": str(scratch)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            # Kill data loader workers, too; also if this process is interrupted.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = noise.read_text(encoding="utf-8", errors="replace").split("\n")
    return code, next((line.strip() for line in reversed(lines) if line.strip()), "")


def _trace_of(values: dict[str, Any], folder: str) -> Trace:
    from safetensors.torch import load_file

    # Keys in JSON are strings.
    for name in ("batches", "rows", "losses"):
        values[name] = {int(step): value for step, value in values[name].items()}
    return Trace(**{**values, "weights": load_file(str(Path(folder, "weights.safetensors")))})
