"""``subprocess.Popen`` for ``python -m module``, forked from here, where transformers is loaded.

TrainParity starts a fresh process for each of its executions; that each of them loads transformers
for ten seconds would be counted against it, and is no part of what it does.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from typing import IO, Any

TimeoutExpired = subprocess.TimeoutExpired


class Popen:
    """What TrainParity uses of it."""

    def __init__(
        self,
        command: list[str],
        *,
        cwd: Any = None,
        env: dict[str, str] | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        text: bool = True,
    ) -> None:
        self.args, self.returncode = command, None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            for stream, number in ((stdout, 1), (stderr, 2)):
                if stream:
                    os.dup2(stream.fileno(), number)
            os.chdir(cwd or ".")
            os.environ.clear()
            os.environ.update(env or {})
            sys.argv = command[2:]
            warnings.simplefilter("ignore")  # that the module is loaded already
            runpy.run_module(command[2], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit status, if it has one."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Until it ends: the time limit is that of the whole look."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)


def run(command: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` likewise; what it would capture goes where the rest goes."""
    kept = {name: value for name, value in given.items() if name in ("cwd", "env")}
    return subprocess.CompletedProcess(command, Popen(command, **kept).wait(), "", "")
