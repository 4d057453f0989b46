"""Peak rates of devices, for the share of them that a run reaches."""

from __future__ import annotations

PEAKS: dict[str, tuple[float, float | None, float]] = {
    "H200": (989.4, 494.7, 67.0),
    "H100 NVL": (835.5, 417.8, 60.0),
    "H100 PCIe": (756.5, 378.0, 51.0),
    "H100": (989.4, 494.7, 67.0),
    "A100": (312.0, 156.0, 19.5),
    "A30": (165.0, 82.0, 10.3),
    "A40": (149.7, 74.8, 37.4),
    "L40S": (362.0, 183.0, 91.6),
    "L4": (121.0, 60.0, 30.3),
    "V100": (125.0, None, 15.7),
    "T4": (65.0, None, 8.1),
}
"""10^12 floating-point operations a second: 16-bit on tensor cores, TF32, float32, each dense.

From NVIDIA's data sheets of these devices; where a sheet gives rates "with sparsity", half of them.
The first name that the device's contains counts, a longer one before a shorter."""


def peak_of(device: str, *, half: bool, tf32: bool) -> float | None:
    """Return a device's peak in floating-point operations a second; None if it is not known.

    Args:
        device: its name, as CUDA tells it.
        half: the run computes in 16 bits.
        tf32: products of float32 matrices are taken in TF32.
    """
    words = device.replace("-", " ").split()
    for name in sorted(PEAKS, key=len, reverse=True):
        if all(part in words for part in name.split()):
            of_half, of_tf32, single = PEAKS[name]
            rate = of_half if half else (of_tf32 if tf32 and of_tf32 else single)
            return rate * 1e12
    return None
