"""What runs in the processes of a judged script: the script itself, and the verdict on it.

``trainsanity run train.py`` starts ``main`` in a process of its own; a command, and whatever script
or command starts, reaches :func:`intercept` by ``intercept/sitecustomize.py``.  Whichever of them
is the first to train is judged in place of that, and ends without another line of the script.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from trainsanity.errors import ExitCode, RankError, UsageError, text_of
from trainsanity.isolation.collectives import rank, several_processes
from trainsanity.isolation.seldom import seldom_collected
from trainsanity.sources.building import declare
from trainsanity.sources.command import Command
from trainsanity.sources.handover import Handover
from trainsanity.sources.owner import Launch
from trainsanity.sources.patching import NewFolders
from trainsanity.sources.refusing import foreign
from trainsanity.sources.script import (
    Script,
    Visit,
    as_main,
    compiled,
    run_code,
    untrained,
    why_ended,
)
from trainsanity.sources.travelling import forget, handover_folder

if TYPE_CHECKING:
    from trainsanity.cli.judging import Options, Verdict
    from trainsanity.pipeline import Pipeline

HOOKS = Path(__file__).with_name("intercept")
"""The folder with ``sitecustomize.py``."""

BOOT = (
    "import sys; sys.path[:] = [p for p in sys.path if p]; n = len(sys.path); "
    "sys.path.append({root!r}); from trainsanity.cli.child import main; del sys.path[n]; main()"
)
"""Python code of a script's process, which has this package and not the current directory on its
path: ``python train.py`` does not have that, either."""

UNHOOKED = ("-I", "-E", "-S", "-s", "-P")
"""Flags with which Python would not find the hooks."""

_held: list[Any] = []
"""Contexts that are never left: what they patch stays so until the process ends."""

_visits: list[_ChildVisit] = []
"""The visit of this process, once it has imported what trains."""


def launch_of(source: Script | Command) -> Launch:
    """Return how a script or a command is started."""
    if isinstance(source, Command):
        return Launch(source.id, source.words, HOOKS)
    # Private, and used by multiprocessing since Python 3.3: -W, -X, -O, -B as they were given.
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    code = BOOT.format(root=str(Path(__file__).parents[2]))
    python = [sys.executable, *(flag for flag in flags if flag not in UNHOOKED), "-c", code]
    return Launch(source.path, python, HOOKS)


def call_of(source: Script | Command, options: Options) -> dict[str, Any]:
    """Return what a process that is judged has to know, in values that JSON takes."""
    if isinstance(source, Script):
        name, command = source.path, [source.path, *source.arguments]
    else:
        name, command = source.id, ["--", *source.words]
    return {
        "id": name,
        "command": command,
        "script": isinstance(source, Script),
        "expected_failures": dict(source.expected_failures),
        "declared": dict(source.declared),
        "options": asdict(options),
    }


def main() -> None:
    """Run the script of the call as ``python train.py`` does."""
    handover = Handover(handover_folder())
    call = handover.asked
    path, *arguments = call["command"]
    _held.append(seldom_collected())
    _held[-1].__enter__()
    try:
        code = compiled(path)
    except UsageError as error:
        handover.ended(str(error))
        sys.exit(1)
    # Never left: threads of the script may go on after its last line.
    _held.append(as_main(path, arguments))
    module = _held[-1].__enter__()
    try:
        run_code(code, module)
    except KeyboardInterrupt:
        handover.ended(f"{path} was interrupted")
        sys.exit(1)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            _judge_what_is_there()
        if call["options"]["debug"]:
            traceback.print_exc()
        handover.ended(why_ended(path, error, code.co_filename))
        # What has been registered to run at exit is the script's own.
        sys.exit(1)
    _judge_what_is_there()
    handover.ended(untrained(path))


def _judge_what_is_there() -> None:
    """Judge a script that ended after an optimizer step of its own, and end; else return."""
    for visit in _visits:
        visit.loop.judge_what_is_there()


def intercept() -> None:
    """Have whatever trains in this process judged instead; called before torch is imported."""
    handover = Handover(handover_folder())
    call = handover.asked
    if not call:
        sys.stderr.write("trainsanity: error: the run that this process belongs to is over\n")
        os._exit(ExitCode.USAGE)  # before it trains
    visit = _ChildVisit(handover, call)
    _visits.append(visit)
    for context in (NewFolders(handover.made).noted(), visit.watching()):
        context.__enter__()
        _held.append(context)


class _ChildVisit(Visit["Verdict"]):
    """Hands the verdict over, and ends the process."""

    def __init__(self, handover: Handover, call: Mapping[str, Any]) -> None:
        super().__init__(call["id"], (), self._verdict)
        self.handover, self.call = handover, call

    @property
    def direct(self) -> bool:
        """Whether the process that waits for the verdict started this one."""
        return bool(os.getppid() == self.call["owner"])

    def begin(self) -> None:
        """Judge here only if no other process is judged, and let nothing that is started be."""
        together = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        if not self.handover.claim(together if several_processes() else str(os.getpid())):
            self.handover.wait()
        forget()
        _refuse_unknown_ranks()

    def another_thread(self) -> None:
        """Keep another thread waiting until the process ends."""
        self.handover.wait()

    def _verdict(self, pipeline: Pipeline) -> Verdict:
        try:
            from trainsanity.cli.judging import Options, judge, text_of, verdict_on
        except ImportError as error:
            raise UsageError(foreign(str(error))) from error
        pipeline.command = tuple(self.call["command"])
        pipeline.rebuilt = self.direct and self.call["script"]
        if self.call["script"] and not self.direct:
            started = f"what is judged is trained in a process that {self.path} starts"
            pipeline.notes = (*pipeline.notes, started)
        declare(pipeline, self.call["declared"])
        options = Options(**self.call["options"])
        judged = judge(pipeline, options, self.call["expected_failures"], self.handover.progress)
        return verdict_on([judged], options, text_of(judged.report, options))

    def _end(self) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # closed, or of the script's own making
                stream.flush()
        if self.error is not None:
            self.handover.verdict(_as_values(self.error))
        elif self.direct or not rank():  # all processes agree, and the first one reports
            self.handover.verdict(asdict(cast("Verdict", self.value)))
        self.handover.leave()


def _refuse_unknown_ranks() -> None:
    """Refuse processes that torch knows to belong together, and accelerate does not."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() > 1 and not several_processes():
        raise UsageError(
            f"the script starts {distributed.get_world_size()} processes itself and gives them no "
            "RANK and WORLD_SIZE, so that they cannot be judged together: start it by torchrun, "
            "accelerate launch or accelerate.notebook_launcher, or judge it with one process"
        )


def _as_values(error: BaseException) -> dict[str, Any]:
    """Return how judging ended without a report."""
    lines = "".join(traceback.format_exception(error))
    if isinstance(error, KeyboardInterrupt):
        return {"interrupted": True}
    if isinstance(error, UsageError | RankError):
        kind = "usage" if isinstance(error, UsageError) else "broken"
        return {"error": str(error), "kind": kind, "traceback": lines}
    text = f"unexpected {type(error).__name__}: {text_of(error)}"
    return {"error": text, "kind": "unexpected", "traceback": lines}
