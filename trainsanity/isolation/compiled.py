"""Models that ``torch.compile`` has compiled, run as they are written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def not_compiled() -> Iterator[None]:
    """Run what was compiled as it is written: each other shape would be compiled anew."""
    stance = getattr(sys.modules.get("torch.compiler"), "set_stance", None)
    if stance is None or "torch._dynamo" not in sys.modules:  # nothing can have been compiled
        yield
        return
    with stance("force_eager"):
        yield
