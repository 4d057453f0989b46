"""Runs tests in forks of a process that has imported what is slow to import, and nothing of ours.

Torch without an accelerator starts no threads that a fork would miss.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
from typing import Any

HEAVY = (
    *("accelerate", "datasets", "hypothesis", "peft", "pytest", "torch", "transformers"),
    *("torch._dynamo", "transformers.trainer", "transformers.models.qwen3.modeling_qwen3"),
)
LIMIT = 400
"""Seconds after which a mutant has been noticed: nothing takes so long without one."""


def serve(path: str) -> None:
    """Answer on a socket at ``path``, one question at a time, until told to end."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            asking, _ = listener.accept()
            with asking, asking.makefile("rw") as stream:
                question = json.loads(stream.readline())
                stream.write(json.dumps({"code": _asked(question)}) + "\n")
                stream.flush()


def _asked(question: dict[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return _forked(question, folder)


def _forked(question: dict[str, Any], temporary: str) -> int:
    """The fork leaves without cleaning up, so its temporary files are in a folder of ours."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            signal.alarm(LIMIT)
            tempfile.tempdir = os.environ["TMPDIR"] = temporary
            code = _tests(question["folder"], question["tests"])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _tests(folder: str, tests: list[str]) -> int:
    import pytest

    os.chdir(folder)
    sys.path.insert(0, folder)
    log = os.open("last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    # Of what was imported before there is nothing to rewrite.
    ignored = "ignore::pytest.PytestAssertRewriteWarning"
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", ignored, "-m", ""]
    return int(pytest.main([*options, *tests]))


if __name__ == "__main__":
    serve(sys.argv[1])
