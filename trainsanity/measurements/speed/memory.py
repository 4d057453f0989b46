"""The most memory that a block takes, and what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """The highest use of a device's memory since it was last asked; of the process's on a CPU.

    Args:
        device: of the model.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self.begin()

    def begin(self) -> None:
        """Forget what was used before."""
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            CLEAR.write_text("5", encoding="utf-8")  # Linux: the peak becomes what is used now
        except OSError:
            return

    def read(self) -> int:
        """Return the bytes: what torch has reserved on a GPU, what is resident of a process."""
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_reserved(self._device))
        try:
            lines = STATUS.read_text(encoding="utf-8").splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM:"))
            return int(peak.split()[1]) * 1024
        except (OSError, StopIteration, ValueError, IndexError):
            import psutil

            return int(psutil.Process().memory_info().rss)

    @property
    def words(self) -> str:
        """Return what is counted."""
        return "reserved by torch on the device" if self._cuda else "resident in this process"

    @property
    def available(self) -> int:
        """Return the bytes that this process could have in all."""
        if self._cuda:
            import torch

            free, _ = torch.cuda.mem_get_info(self._device)
            return int(free + torch.cuda.memory_reserved(self._device))
        import psutil

        return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)
