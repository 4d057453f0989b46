"""The line of the user's own code that an error came from."""

from __future__ import annotations

import os
import traceback

from trainsanity.isolation.reachable import is_own


def place_of(error: BaseException) -> str:
    """Return the innermost line of the user's own code, as in " (train.py line 31)".

    Empty where the error passed none: the call itself was wrong, or a library was imported.
    """
    own = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if is_own(frame.f_globals.get("__name__") or "trainsanity")
    ]
    if not own:
        return ""
    file, line = own[-1]
    inside = os.path.relpath(file)
    return f" ({file if inside.startswith(os.pardir) else inside} line {line})"
