"""Settings that the user asked for, beside those in use."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.engine.facts import attention_asked, attention_used, autocast_of
from trainsanity.engine.store import measurement
from trainsanity.types import Cost

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@dataclass(frozen=True)
class Intent:
    """What was asked for, and what is there.

    Attributes:
        attention: implementations of attention that are asked for by name, by the place that asks.
        attention_used: implementations that modules have, with how many have each.
        sixteen_bits: the 16-bit dtype of autocast or of the weights; None without one.
        device: its name.
        capability: compute capability of the CUDA device; None elsewhere.
    """

    attention: dict[str, str]
    attention_used: dict[str, int]
    sixteen_bits: str | None
    device: str
    capability: tuple[int, int] | None


@measurement(Cost.STATIC)
def intent(pipeline: Pipeline) -> Intent:
    """Read which attention and dtype the run asks for, and which are there."""
    import torch

    dtypes = [autocast_of(pipeline), str(pipeline.dtype).removeprefix("torch.")]
    half = {"bf16": "bfloat16", "fp16": "float16", "bfloat16": "bfloat16", "float16": "float16"}
    device = pipeline.device if pipeline.trainer is None else pipeline.trainer.args.device
    cuda = device.type == "cuda"
    return Intent(
        attention_asked(pipeline),
        attention_used(pipeline.model),
        next((half[one] for one in dtypes if one in half), None),
        torch.cuda.get_device_name(device) if cuda else device.type,
        torch.cuda.get_device_capability(device) if cuda else None,
    )


@dataclass(frozen=True)
class ReadVariable:
    """An environment variable, beside what its library took it for.

    Attributes:
        name: of the variable.
        value: as it is set now.
        in_use: what the library read when it was loaded.
        library: its name.
        agrees: whether the two say the same.
    """

    name: str
    value: str
    in_use: str
    library: str
    agrees: bool


@dataclass(frozen=True)
class ReadVariables:
    """Variables that are set now and that a library has read once, when it was loaded."""

    variables: tuple[ReadVariable, ...]


@measurement(Cost.STATIC)
def read_variables(pipeline: Pipeline) -> ReadVariables:
    """Compare environment variables with what the libraries that read them hold."""
    found = [*_openmp(), *_paths(), *_switches(), *_allocator(), *_devices()]
    return ReadVariables(tuple(found))


def _openmp() -> Iterator[ReadVariable]:
    """Compare ``OMP_NUM_THREADS`` with what OpenMP starts a thread with.

    ``torch.set_num_threads`` changes the number for the thread that calls it; a new thread has the
    one that was read when the library was loaded.
    """
    value = os.environ.get("OMP_NUM_THREADS", "")
    first = value.partition(",")[0].strip()
    if not first.isdigit() or not int(first):
        return
    path = _loaded_openmp()
    if path is None:
        return
    import ctypes

    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(int(ctypes.CDLL(path).omp_get_max_threads()))
    )
    thread.start()
    thread.join()
    if found:
        agrees = found[0] == int(first)
        yield ReadVariable("OMP_NUM_THREADS", value, str(found[0]), "OpenMP", agrees)


def _loaded_openmp() -> str | None:
    """Return the path of the OpenMP library that this process holds; None where it is not seen.

    With two of them it is not known which one computes.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    names = ("libgomp", "libiomp", "libomp")
    paths = {
        path
        for line in lines
        if (path := line.partition("/")[2]) and path.rpartition("/")[2].startswith(names)
    }
    return f"/{paths.pop()}" if len(paths) == 1 else None


PATHS = {
    "HF_HOME": ("huggingface_hub.constants", "HF_HOME"),
    "HF_HUB_CACHE": ("huggingface_hub.constants", "HF_HUB_CACHE"),
    "HF_DATASETS_CACHE": ("datasets.config", "HF_DATASETS_CACHE"),
}
"""Variables that a library reads into a constant when it is imported, with module and name."""

SWITCHES = {
    "HF_HUB_OFFLINE": ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
    "HF_DATASETS_OFFLINE": ("datasets.config", "HF_DATASETS_OFFLINE"),
}

TRUE = ("1", "ON", "YES", "TRUE")
"""What huggingface_hub and datasets take for yes."""


def _constant(place: tuple[str, str]) -> Any:
    return getattr(sys.modules.get(place[0]), place[1], None)


def _paths() -> Iterator[ReadVariable]:
    for name, place in PATHS.items():
        value, held = os.environ.get(name), _constant(place)
        if value and held is not None:
            agrees = _resolved(value) == _resolved(str(held))
            yield ReadVariable(name, value, str(held), place[0].partition(".")[0], agrees)


def _resolved(path: str) -> str:
    return os.path.realpath(os.path.expanduser(os.path.expandvars(path)))


def _switches() -> Iterator[ReadVariable]:
    for name, place in SWITCHES.items():
        value, held = os.environ.get(name), _constant(place)
        # Only what was switched on: an older name may stand in for a variable that says no.
        if value and value.upper() in TRUE and held is not None:
            yield ReadVariable(name, value, str(held), place[0].partition(".")[0], bool(held))


def _allocator() -> Iterator[ReadVariable]:
    """Compare the allocator's variable with what it was configured by at its first use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        if value := os.environ.get(name):
            held = torch.cuda.memory._snapshot().get("allocator_settings", {})
            text = held.get("PYTORCH_CUDA_ALLOC_CONF", held.get("PYTORCH_ALLOC_CONF"))
            if text is not None:
                yield ReadVariable(name, value, str(text), "torch", str(text) == value)
            return


def _devices() -> Iterator[ReadVariable]:
    """Compare the number of visible devices with how many CUDA has."""
    torch = sys.modules.get("torch")
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None or torch is None or not torch.cuda.is_initialized():
        return
    named = len([one for one in value.split(",") if one.strip()])
    count = torch.cuda.device_count()
    # Names of devices that do not exist end the list, so that fewer may be visible than named.
    words = f"{count} device{'' if count == 1 else 's'}"
    yield ReadVariable("CUDA_VISIBLE_DEVICES", value, words, "CUDA", count <= named)
