"""A checkpoint's files on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def stored_file(source: str | os.PathLike[str], name: str) -> Path | None:
    """Return a checkpoint's file from its folder or the hub's cache; None if it is not there.

    Nothing is fetched.  A folder that was deleted since is no hub id, and has no files.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if os.path.isdir(source):
        file = Path(source) / name
        return file if file.is_file() else None
    try:
        found = try_to_load_from_cache(str(source), name)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
