"""Runs functions in processes forked from here, where torch and transformers are loaded."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fixtures.field import Case, Healthy

from . import tool

ROOT = Path(__file__).resolve().parents[2]

FORKING = threading.Lock()
"""Held while a thread forks: filelock refuses a fork while another one is under way."""

LIMIT = 120.0
"""Seconds for one pipeline; the imports of torchrun's processes have as much again."""


def fault_and_twin(one: Case) -> dict[str, Any]:
    """Judge a case: what is red on the fault alone, and whether it is named."""
    fault = _judged(one.family, one.id, one, one.processes)
    twin = _judged(one.family, f"{one.id}_ok", one.twin, one.processes)
    return {"fault": fault, "twin": twin}


def healthy_one(one: Healthy) -> dict[str, Any]:
    """Judge a healthy pipeline."""
    return {"healthy": _judged(one.family, one.id, one, one.processes)}


def proven(one: Case) -> str:
    """Run a case's proofs in a process of their own; return what went wrong, or nothing."""
    answer = forked(lambda: [proof() for proof in one.proofs] and {"proofs": len(one.proofs)})
    if not one.proofs:
        return "has no proof"
    return "" if answer.get("proofs") else answer["errors"]["build"]


def _judged(family: str, name: str, build: Callable[[], Any], processes: int) -> dict[str, Any]:
    target = f"fixtures.field.{family}:{name}"
    if processes > 1:
        return _started(target, processes)
    return forked(lambda: tool.judge(target, build))


def forked(call: Callable[[], dict[str, Any]], limit: float = LIMIT) -> dict[str, Any]:
    """Return what a function returns in a forked process, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="field-") as folder:
        sys.stdout.flush()
        sys.stderr.flush()
        with FORKING:
            child = os.fork()
        if not child:
            _answer(call, Path(folder))
        ended = _waited(child, limit)
        answer = Path(folder, "answer.json")
        if ended == 0 and answer.exists():
            return json.loads(answer.read_text(encoding="utf-8"))
        last = _last_line(Path(folder, "output.txt").read_text(encoding="utf-8", errors="replace"))
        how = f"took longer than {limit:.0f} s" if ended is None else f"ended with {ended}"
        return tool.unjudged("error", f"the process {how}: {last}")


def _answer(call: Callable[[], dict[str, Any]], folder: Path) -> None:
    code = 1
    try:
        os.setsid()
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            answer = call()
        (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _waited(child: int, limit: float) -> int | None:
    """The child's exit code, or None if it had to be killed."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _started(target: str, processes: int) -> dict[str, Any]:
    """Judge in several processes, over gloo on the CPU, as a user would start them."""
    found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory(prefix="field-") as folder:
        path = Path(folder, "report.json")
        torchrun = ("torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
        command = [sys.executable, "-m", *torchrun, "-m", "trainsanity", "run", target]
        with Path(folder, "output.txt").open("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                [*command, f"--json={path}"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": found, "TMPDIR": folder},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(2 * LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return tool.unjudged("error", f"took longer than {2 * LIMIT:.0f} s")
            if path.exists():
                report = json.loads(path.read_text(encoding="utf-8"))
                return tool.read(report[0] if isinstance(report, list) else report)
            output.seek(0)
            text = output.read()
        usage = [line for line in text.splitlines() if line.startswith("trainsanity: error:")]
        if usage:
            return tool.unjudged(2, usage[0].removeprefix("trainsanity: error: "))
        return tool.unjudged("error", f"torchrun ended with {code}: {_last_line(text)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return (errors or lines or ["no output"])[-1]
