"""Let the intercept travel to the processes that a script starts, by their environment.

``PYTHONPATH`` begins with a folder whose ``sitecustomize`` every Python imports when it starts, and
a variable names the folder of the :class:`~trainsanity.sources.handover.Handover`.  Neither torch
nor transformers is imported for that.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

from trainsanity.sources.patching import patched

HANDOVER = "TRAINSANITY_HANDOVER"
"""The variable that names the folder of the handover."""

HOOKS = "TRAINSANITY_HOOKS"
"""The variable that names the folder with ``sitecustomize.py``."""

OWNER = "TRAINSANITY_OWNER"
"""The variable with the id of the process that waits for the verdict."""

OURS = (HANDOVER, HOOKS, OWNER)


def arm(environ: MutableMapping[str, str], handover: str, hooks: str) -> None:
    """Have every Python that starts with this environment install the intercept."""
    environ.update({HANDOVER: handover, HOOKS: hooks, OWNER: str(os.getpid())})
    _lead(environ, hooks)


def disarm(environ: MutableMapping[str, str]) -> None:
    """Undo :func:`arm`: what is started from now on is our own."""
    hooks = environ.get(HOOKS, "")
    for name in OURS:
        environ.pop(name, None)
    others = _without(environ, hooks)
    if others:
        environ["PYTHONPATH"] = others
    else:
        environ.pop("PYTHONPATH", None)


def _without(environ: MutableMapping[str, str], hooks: str) -> str:
    """Return ``PYTHONPATH`` without the hooks; an empty entry stays, for the directory it is."""
    parts = environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(part for part in parts if part != hooks)


def _lead(environ: MutableMapping[str, str], hooks: str) -> None:
    others = _without(environ, hooks)
    environ["PYTHONPATH"] = f"{hooks}{os.pathsep}{others}" if others else hooks


_stack = ExitStack()
"""What is patched in this process, until it ends."""


def keep_in_environment() -> None:
    """Keep the intercept in the environment of new processes, also where the script makes one.

    Scripts give ``env={"CUDA_VISIBLE_DEVICES": "0"}``, or set ``PYTHONPATH`` anew.
    """
    _stack.enter_context(patched(("subprocess", "Popen"), {"__init__": _with_environment}))
    # They take os.environ as it is.
    for kind in ("spawn_posix", "forkserver"):
        home = (f"multiprocessing.popen_{kind}", "Popen")
        _stack.enter_context(patched(home, {"_launch": _environment_restored}))


_armed = {name: os.environ[name] for name in OURS if name in os.environ}
"""As this process found them; the script may clear its environment."""

_temporary = os.environ.get("TMPDIR")
"""The folder for temporary files, for processes that are given none."""


def handover_folder() -> str:
    """Return the folder of the handover, of a process that is intercepted."""
    return _armed[HANDOVER]


def forget() -> None:
    """Take the intercept out of this process's environment, and leave new processes alone."""
    _armed.clear()
    disarm(os.environ)


def _restore(environ: MutableMapping[str, str]) -> None:
    if _armed:
        environ.update(_armed)
        if _temporary is not None:
            environ.setdefault("TMPDIR", _temporary)
        _lead(environ, _armed[HOOKS])


ENV = 10
"""The place of ``env`` among the arguments of ``Popen``; so many are given by their names."""


def _with_environment(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def init(popen: Any, *args: Any, **kwargs: Any) -> None:
        if _armed and len(args) <= ENV:
            # A copy: the script may go on using its own.
            environ = {**(os.environ if kwargs.get("env") is None else kwargs["env"])}
            if all(isinstance(name, str) for name in environ):
                _restore(environ)
                kwargs["env"] = environ
        original(popen, *args, **kwargs)

    return init


def _environment_restored(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def launch(*args: Any, **kwargs: Any) -> Any:
        _restore(os.environ)
        return original(*args, **kwargs)

    return launch


def prctl() -> Callable[..., int] | None:
    """Return Linux' ``prctl``; None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        function: Callable[..., int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return function


def die_with_owner() -> None:
    """End this process when the one that waits for its verdict ends, where Linux can do that."""
    if str(os.getppid()) != os.environ.get(OWNER):
        return  # the processes between the two may end as they like
    control = prctl()
    if control is not None:
        pr_set_pdeathsig = 1
        control(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
