"""Score trainsanity and its peers on the same faults and controls: ``python -m tests.score``.

Every look is a process of its own, forked from this one, where everything is loaded; so a pipeline
is fresh, a crash costs one answer, and a time limit can be kept.  Answers are added to a file of
lines, and what stands there is not asked again: a run that was stopped goes on.  The document that
the documentation's table is made from, ``.ci/score.json``, is written from all lines with
``--write``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import table
from .looks import Look, line
from .subjects import Subject, subjects

TOOLS = {
    "trainsanity": "ours",
    "pytest-torch": "peer_pytest_torch",
    "torchtest2": "peer_torchtest2",
    "trainparity": "peer_trainparity",
}


def main() -> None:
    """Ask what has no answer yet."""
    parser = argparse.ArgumentParser(prog="python -m tests.score", description=__doc__)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--results", type=Path, default=Path("build/score.jsonl"))
    parser.add_argument("--select", default="", help="only subjects whose id contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, default=600, help="seconds for one look")
    parser.add_argument(
        "--fresh", action="store_true", help="forget earlier answers of these tools"
    )
    parser.add_argument(
        "--write", action="store_true", help="write .ci/score.json from all answers"
    )
    asked = parser.parse_args()
    if unknown := set(asked.tools) - set(TOOLS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(TOOLS)}")
    tools = asked.tools or list(TOOLS)
    modules = _load(tools)
    told = {tool: (version(modules[tool].PACKAGE), version("transformers")) for tool in tools}
    known = table.read(asked.results)
    if asked.fresh:
        known = [
            one for one in known if told.get(one["tool"]) != (one["version"], one["transformers"])
        ]
        table.write(asked.results, known)
    answered = {(one["tool"], one["version"], one["transformers"], one["subject"]) for one in known}
    queue = [
        (tool, subject)
        for tool in tools
        for subject in subjects().values()
        if asked.select in subject.id and (tool, *told[tool], subject.id) not in answered
    ]
    _tell(f"{len(queue)} looks to take, {len(known)} known")
    for number, (tool, subject, look) in enumerate(_all(queue, modules, asked), 1):
        package, transformers = told[tool]
        stages = modules[tool].STAGES
        answer = {
            "tool": tool,
            "version": package,
            "transformers": transformers,
            "subject": subject.id,
            **look,
            "looks_at": sorted(set().union(*stages.values())),
            "speaks_of": {
                check: sorted(stages[check]) for check in (*look["red"], *look["warned"])
            },
        }
        table.append(asked.results, answer)
        words = ", ".join([*answer["red"], *answer["warned"]]) or "nothing"
        _tell(f"{number}/{len(queue)} {tool} {subject.id}: {words} ({answer['seconds']} s)")
    if asked.write:
        table.publish(table.read(asked.results))


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _load(tools: list[str]) -> dict[str, Any]:
    """The tools' modules, and all that a look needs, before anything is forked."""
    import torch

    torch.set_num_threads(1)
    import trainsanity
    from fixtures.controls import declared

    for module in pkgutil.walk_packages(trainsanity.__path__, "trainsanity."):
        if "__main__" not in module.name and "suite" not in module.name:
            importlib.import_module(module.name)
    subjects()
    declared("plain").build()
    return {tool: importlib.import_module(f"tests.score.{TOOLS[tool]}") for tool in tools}


def _all(queue: list[tuple[str, Subject]], modules: dict[str, Any], asked: Any) -> Any:
    """Each of the queue with its answer, as they come, ``asked.jobs`` at a time."""
    waiting, running = list(reversed(queue)), {}
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            tool, subject = waiting.pop()
            reading, writing = os.pipe()
            # The fork leaves without cleaning up.
            temporary = tempfile.mkdtemp(prefix="trainsanity-score-")
            pid = os.fork()
            if not pid:
                os.close(reading)
                tempfile.tempdir = os.environ["TMPDIR"] = temporary
                _answer(modules[tool].look, subject, writing)
            os.close(writing)
            running[pid] = (tool, subject, reading, temporary, time.monotonic())
        for pid, (tool, subject, reading, temporary, since) in list(running.items()):
            late = time.monotonic() - since > asked.limit
            if late:
                os.killpg(pid, signal.SIGKILL)
            done, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if done:
                del running[pid]
                shutil.rmtree(temporary, ignore_errors=True)
                with os.fdopen(reading, encoding="utf-8") as pipe:
                    text = pipe.read()
                why = f"no answer within {asked.limit:g} s" if late else f"died: {status}"
                silent = {**vars(Look(unable={"all": why})), "seconds": asked.limit}
                yield tool, subject, json.loads(text) if text else silent
        time.sleep(0.05)


def _answer(look: Any, subject: Subject, writing: int) -> None:
    """In the child: look, write one line, leave."""
    os.setpgid(0, 0)
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    start = _spent()
    try:
        said = look(subject)
    except BaseException as error:
        said = Look(unable={"all": f"{type(error).__name__}: {line(error)}"})
    answer = {**vars(said), "seconds": round(_spent() - start, 1)}
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(answer))
    os._exit(0)


def _spent() -> float:
    """Seconds of processor time, of this process and those that it waited for.

    Not by the clock: whatever else runs on the machine would be counted.
    """
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
