"""The folder through which a process that is judged hands its verdict to the one that waits.

The process that waits (see :mod:`.owner`) makes the folder and removes it.  Everything in it is
JSON, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 120.0
"""Seconds for which a process waits to be ended after its verdict; the owner takes milliseconds,
and only an owner that is gone takes longer."""

_exit = os._exit
"""Ends this process, also where the script has put something in the place of ``os._exit``."""


class Handover:
    """The files of one call of ``trainsanity run``, as both sides see them.

    Attributes:
        folder: where they are.
        temporary: the folder for temporary files of everything that is started.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.temporary = self.folder / "tmp"

    # --- from the owner ---

    def call(self, values: Mapping[str, Any]) -> None:
        """Write how to judge."""
        self.temporary.mkdir()
        self._write("call", {**values, "owner": os.getpid()})

    @property
    def asked(self) -> dict[str, Any]:
        """Return how to judge, with the ``owner``'s process id."""
        return self._read("call") or {}

    # --- from what is judged ---

    def claim(self, group: str) -> bool:
        """Return whether the processes of ``group`` are those to judge: the first that ask are."""
        if self._write("claim", {"group": group}, once=True):
            return True
        return self.claimed == group

    @property
    def claimed(self) -> str | None:
        """Return the group that is judged; None before any is."""
        claim = self._read("claim")
        return None if claim is None else str(claim["group"])

    def verdict(self, values: Mapping[str, Any]) -> None:
        """Write the verdict; where several processes have one, the first counts."""
        self._write("verdict", values, once=True)

    @property
    def outcome(self) -> dict[str, Any] | None:
        """Return the verdict; None as long as there is none."""
        return self._read("verdict")

    def ended(self, why: str) -> None:
        """Write why a script ended, for the case that nothing of it comes to a verdict."""
        self._write("ended", {"why": why}, once=True)

    @property
    def ending(self) -> str | None:
        """Return why the script ended, as far as is known."""
        ended = self._read("ended")
        return None if ended is None else str(ended["why"])

    def progress(self, what: str) -> None:
        """Write what is being measured: a tenth of a millisecond, some hundred times a run."""
        self._write("progress", {"what": what})

    @property
    def doing(self) -> str:
        """Return what is being measured; empty before anything is."""
        return str((self._read("progress") or {}).get("what", ""))

    def made(self, folders: list[str]) -> None:
        """Add folders that a Trainer made, to be removed if they are still empty at the end."""
        with self._path("made").open("a", encoding="utf-8") as file:
            file.write("".join(f"{json.dumps(folder)}\n" for folder in folders))

    @property
    def new_folders(self) -> list[Path]:
        """Return the folders that Trainers made."""
        with contextlib.suppress(OSError):
            lines = self._path("made").read_text(encoding="utf-8").splitlines()
            return [Path(json.loads(line)) for line in lines]
        return []

    def leave(self) -> NoReturn:
        """End this process, so that nothing of the script runs after the verdict.

        A process that the owner started itself ends at once.  Whatever has started another waits
        for it and would go on after its end: so the owner ends those first, and this one last.
        """
        if os.getppid() == self.asked.get("owner"):
            _exit(0)
        self.wait()

    def wait(self) -> NoReturn:
        """Wait until the owner ends this process."""
        with contextlib.suppress(ValueError):  # not in the main thread, which Ctrl-C does not reach
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self.folder.exists():
            time.sleep(0.05)
        _exit(1)

    # --- files ---

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            text = self._path(name).read_text(encoding="utf-8")
        except OSError:
            return None
        values: dict[str, Any] = json.loads(text)
        return values

    def _write(self, name: str, values: Mapping[str, Any], *, once: bool = False) -> bool:
        """Write a file whole; return whether it is this one, if another may have come before."""
        path = self._path(name)
        beside = path.with_name(f".{name}.{os.getpid()}.{threading.get_ident()}")
        beside.write_text(json.dumps(values), encoding="utf-8")
        if not once:
            os.replace(beside, path)
            return True
        try:
            os.link(beside, path)  # unlike replace, it refuses where one is
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True
