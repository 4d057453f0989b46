"""Facts of the environment that decide how fast a run is: settings read, nothing imported.

Reading them takes milliseconds, so that every report has them.  A library that the pipeline did not
import has nothing to say here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline

Facts = dict[str, dict[str, Any]]
"""Name and value of each setting, by what it concerns."""

VARIABLES = (
    "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_TF32",
    "PYTORCH_", "TORCH_", "TORCHINDUCTOR_", "TORCHDYNAMO_", "NCCL_", "GLOO_", "FSDP_",
    "ACCELERATE_", "TOKENIZERS_PARALLELISM", "RAYON_", "HF_HOME", "HF_HUB_OFFLINE",
    "HF_DATASETS_", "TRANSFORMERS_",
)  # fmt: skip
"""Beginnings of the variables that are reported: those of threads, kernels, memory and transport,
by the documentation of OpenMP, MKL, CUDA, torch, NCCL, accelerate and tokenizers."""

SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")
"""Parts of names whose values are nobody's business; TOKENIZERS_PARALLELISM is none of them."""


def settings_of(pipeline: Pipeline) -> Facts:
    """Return the settings of a pipeline and of its process, by what they concern.

    What cannot be read is left out, and a group of which nothing can be read too.
    """
    groups: Mapping[str, Callable[[Pipeline], Mapping[str, Any]]] = {
        "precision": _precision,
        "attention": attention_of,
        "compile": _compile,
        "kernels": _kernels,
        "threads": _threads,
        "variables": lambda _: variables(),
        "loader": _loader,
        "optimizer": _optimizer,
        "memory": _memory,
        "accelerator": _accelerator,
        "world": _world,
    }
    found: Facts = {}
    for name, read in groups.items():
        try:
            values = {key: value for key, value in read(pipeline).items() if value is not None}
        except Exception as error:
            # A report is not lost to a setting that another version of a library has renamed.
            values = {"unreadable": f"{type(error).__name__}: {error}"}
        if values:
            found[name] = values
    return found


def variables() -> dict[str, str]:
    """Return the environment variables that bear on speed and memory."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES) and not _secret(name)
    }


def _secret(name: str) -> bool:
    return any(part in name.replace("TOKENIZERS_", "") for part in SECRET)


def _precision(pipeline: Pipeline) -> dict[str, Any]:
    import torch

    scaler = getattr(getattr(pipeline.trainer, "accelerator", None), "scaler", None)
    facts = {
        "weights": str(pipeline.dtype).removeprefix("torch."),
        "autocast": autocast_of(pipeline),
        "grad_scaler": None if pipeline.trainer is None else scaler is not None,
        "float32_matmul": torch.get_float32_matmul_precision(),
    }
    if pipeline.device.type == "cuda":
        facts["tf32_matmul"] = tf32_allowed()
        facts["tf32_cudnn"] = _tf32(torch.backends.cudnn, "conv")
    return facts


def tf32_allowed() -> bool:
    """Return whether products of float32 matrices may be taken in TF32."""
    import torch

    return bool(_tf32(torch.backends.cuda.matmul))


def _tf32(backend: Any, part: str = "") -> bool:
    """Read the switch; torch 2.9 has a new one, and refuses the old one where both were set."""
    try:
        return bool(backend.allow_tf32)
    except RuntimeError:
        backend = getattr(backend, part, backend)
        return bool(getattr(backend, "fp32_precision", "") == "tf32")


def autocast_of(pipeline: Pipeline) -> str | None:
    """Return the dtype of the run's autocast, ``no`` for none; None where it is not known."""
    precision = getattr(getattr(pipeline.trainer, "accelerator", None), "mixed_precision", None)
    return None if precision is None else str(precision)


def attention_of(pipeline: Pipeline) -> dict[str, Any]:
    """Return which implementation of attention was asked for and which the modules have."""
    asked, used = attention_asked(pipeline), attention_used(pipeline.model)
    import torch

    facts: dict[str, Any] = {
        "asked": ", ".join(dict.fromkeys(asked.values())) or None,
        "in_use": ", ".join(used) or None,
        "config": getattr(pipeline.config, "_attn_implementation", None),
    }
    if pipeline.device.type == "cuda" and used:
        on = torch.backends.cuda
        facts["sdpa_kernels"] = ", ".join(
            name
            for name, enabled in (
                ("flash", on.flash_sdp_enabled()),
                ("mem_efficient", on.mem_efficient_sdp_enabled()),
                ("cudnn", on.cudnn_sdp_enabled()),
                ("math", on.math_sdp_enabled()),
            )
            if enabled
        )
    return facts


def attention_asked(pipeline: Pipeline) -> dict[str, str]:
    """Return the implementation of attention that is asked for, by the place that asks."""
    asked: dict[str, str] = {}
    given = getattr(pipeline.args, "model_init_kwargs", None)
    if isinstance(given, Mapping) and given.get("attn_implementation"):
        asked['model_init_kwargs["attn_implementation"]'] = str(given["attn_implementation"])
    for name, config in _configs(pipeline.model):
        # Plain attributes: transformers reads the name with the underscore alone.
        own = vars(config)
        if isinstance(own.get("attn_implementation"), str):
            asked[f"{name}.attn_implementation"] = own["attn_implementation"]
        if own.get("use_flash_attention_2") is True:
            asked[f"{name}.use_flash_attention_2"] = "flash_attention_2"
        chosen = getattr(config, "_attn_implementation", None)
        # Transformers fills the other names in by itself.
        if isinstance(chosen, str) and chosen.startswith(("flash", "flex")):
            asked[f"{name}._attn_implementation"] = chosen
    return asked


def _configs(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the model's config and its text part's, each once, by name."""
    config = getattr(unwrapped(model), "config", None)
    if config is None or not hasattr(config, "__dict__"):
        return
    yield "config", config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    if text is not config:
        yield "config.text_config", text


def attention_used(model: Any) -> dict[str, int]:
    """Return the implementations that the model's modules of attention have, with how many.

    Transformers writes a class for each where it does not choose by the config at each pass.
    """
    used: dict[str, int] = {}
    switchable = getattr(unwrapped(model), "_supports_attention_backend", False)
    for module in model.modules():
        name = type(module).__name__
        if not name.endswith("Attention") and "Attention2" not in name:
            continue
        if "Flash" in name:
            found = "flash_attention_2"
        elif "Sdpa" in name:
            found = "sdpa"
        else:
            chosen = getattr(getattr(module, "config", None), "_attn_implementation", None)
            if not (switchable and isinstance(chosen, str)):
                continue
            found = chosen
        used[found] = used.get(found, 0) + 1
    return used


def _compile(pipeline: Pipeline) -> dict[str, Any]:
    args, model = pipeline.args, pipeline.model
    return {
        "asked": getattr(args, "torch_compile", None),
        "backend": getattr(args, "torch_compile_backend", None),
        "mode": getattr(args, "torch_compile_mode", None),
        "in_use": compiled(model) or None,
    }


def compiled(model: Any) -> bool:
    """Return whether torch.compile wraps the model or a module of it."""
    return any(
        type(module).__name__ == "OptimizedModule"
        or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _kernels(pipeline: Pipeline) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"deterministic": torch.are_deterministic_algorithms_enabled()}
    if pipeline.device.type == "cuda":
        facts["cudnn_deterministic"] = torch.backends.cudnn.deterministic
        facts["cudnn_benchmark"] = torch.backends.cudnn.benchmark
    return facts


def _threads(_: Pipeline) -> dict[str, Any]:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "torch": torch.get_num_threads(),
        "torch_interop": torch.get_num_interop_threads(),
        "processors": os.cpu_count(),
        "usable": usable,
    }


LOADER = (
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_pin_memory",
    "dataloader_persistent_workers",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "group_by_length",
)


def _loader(pipeline: Pipeline) -> dict[str, Any]:
    facts = {
        name.removeprefix("dataloader_"): getattr(pipeline.args, name, None) for name in LOADER
    }
    return facts | {"pad_to_multiple_of": getattr(pipeline.data_collator, "pad_to_multiple_of",
                                                  None)}  # fmt: skip


def _optimizer(pipeline: Pipeline) -> dict[str, Any]:
    built = pipeline.optimizer or getattr(pipeline.trainer, "optimizer", None)
    built = getattr(built, "optimizer", built)
    facts: dict[str, Any] = {"asked": _plain(getattr(pipeline.args, "optim", None))}
    if built is not None:
        group = built.param_groups[0]
        facts |= {"class": type(built).__name__, "fused": group.get("fused"),
                  "foreach": group.get("foreach")}  # fmt: skip
    return facts


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _memory(pipeline: Pipeline) -> dict[str, Any]:
    args, model = pipeline.args, unwrapped(pipeline.model)
    # Two names of one argument, by the version of transformers.
    names = ("activation_checkpointing", "gradient_checkpointing")
    asked = any(getattr(args, name, False) for name in names)
    how = next((found for name in names if (found := getattr(args, f"{name}_kwargs", None))), None)
    return {
        "gradient_checkpointing": asked
        or any(
            getattr(module, "gradient_checkpointing", False) is True for module in model.modules()
        ),
        "checkpointing_kwargs": _plain(how),
        "use_cache": getattr(pipeline.config, "use_cache", None),
        "empty_cache_steps": getattr(args, "torch_empty_cache_steps", None),
        "eval_accumulation_steps": getattr(args, "eval_accumulation_steps", None),
    }


def _accelerator(pipeline: Pipeline) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"driver": driver(), "cuda": torch.version.cuda}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        facts |= {
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
            "multiprocessors": found.multi_processor_count,
            **_clocks(torch.cuda.current_device()),
        }
        facts["count"] = torch.cuda.device_count()
    return facts


def driver() -> str | None:
    """Return the version of NVIDIA's driver, which Linux tells in a file."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    words = text.partition("\n")[0].split()
    # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build"
    return next((word for word in words if word[:1].isdigit() and "." in word), None)


def _clocks(index: int) -> dict[str, Any]:
    """Return clock and power cap where the pipeline has imported what reads them."""
    nvml = sys.modules.get("pynvml")
    if nvml is None:
        return {}
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return {
        "clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "power_cap_w": nvml.nvmlDeviceGetEnforcedPowerLimit(handle) // 1000,
    }


def _world(pipeline: Pipeline) -> dict[str, Any]:
    accelerator = getattr(pipeline.trainer, "accelerator", None)
    kind = getattr(accelerator, "distributed_type", None)
    mesh = getattr(accelerator, "torch_device_mesh", None)
    return {
        "size": getattr(pipeline.args, "world_size", None),
        "kind": None if kind is None or _plain(kind) == "NO" else _plain(kind),
        "backend": _backend(),
        "mesh": None if mesh is None else str(mesh),
    }


def _backend() -> str | None:
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return str(distributed.get_backend())
