"""A factory is judged in this process: its code must not choose how the process ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from trainsanity.errors import ExitCode
from trainsanity.isolation.temp_folders import clear


@contextlib.contextmanager
def exit_code_kept() -> Iterator[None]:
    """Have ``os._exit`` of a pipeline's own code end this process as incomplete, and say so.

    Nothing can unwind it, and 0 would be green though nothing was judged.  Processes that are
    forked meanwhile end as they wish.
    """
    own, leave = os.getpid(), os._exit

    def left(status: int) -> None:
        if os.getpid() == own and status != ExitCode.INCOMPLETE:
            words = f"the pipeline's own code called os._exit({status}): there is no report"
            with contextlib.suppress(OSError):
                os.write(2, f"trainsanity: error: {words}\n".encode())
            clear()
            leave(ExitCode.INCOMPLETE)
        leave(status)

    os._exit = left  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = leave
