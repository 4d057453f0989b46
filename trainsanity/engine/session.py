"""Values computed from a pipeline: objective, facts, environment, measurements."""

from __future__ import annotations

import contextlib
import functools
import math
import platform
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainsanity.engine.facts import settings_of
from trainsanity.engine.loading import load_package, load_plugins
from trainsanity.engine.store import Measurements
from trainsanity.isolation.mesh import sharing_rows
from trainsanity.isolation.shards import shape_of
from trainsanity.objectives.base import CUSTOM, UNKNOWN
from trainsanity.objectives.registry import GROUP, objective_for, require_declared
from trainsanity.pipeline import class_name, unwrapped

if TYPE_CHECKING:
    from trainsanity.objectives.base import Objective
    from trainsanity.pipeline import Pipeline


class Session:
    """Everything that is computed from one pipeline, each value once."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.measurements = Measurements(pipeline)

    @classmethod
    def of(cls, pipeline: Pipeline) -> Session:
        """Return the pipeline's one session; it is made when it is first asked for."""
        if pipeline.session is None:
            pipeline.session = cls(pipeline)
        session: Session = pipeline.session
        return session

    @cached_property
    def objective(self) -> Objective:
        """Return the objective of the pipeline."""
        _load_objectives()
        return objective_for(self.pipeline)

    @property
    def _objective_name(self) -> str:
        """Return its name; ``unknown`` if a plug-in raises, which the checks that need it tell."""
        try:
            return self.objective.name
        except Exception:
            return UNKNOWN

    @property
    def recognition(self) -> dict[str, str]:
        """The objective's name and how it was recognised; empty where a plug-in raises."""
        try:
            found = self.objective
        except Exception:
            return {}
        return {"name": found.name, "recognised": _recognised(self.pipeline, found)}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The numbers of the run that factors are matched against and reports show."""
        pipeline = self.pipeline
        args, config = pipeline.args, pipeline.config
        facts: dict[str, Any] = {
            "model": class_name(pipeline.model),
            "trainer": None if pipeline.trainer is None else type(pipeline.trainer).__name__,
            "parameters": sum(math.prod(shape_of(p)) for p in pipeline.model.parameters()),
            "dtype": str(pipeline.dtype).removeprefix("torch."),
            "device": str(pipeline.device),
            "task": pipeline.objective or self._objective_name,
            "num_labels": getattr(config, "num_labels", None),
        }
        if args is not None:
            facts |= {
                "per_device_train_batch_size": args.per_device_train_batch_size,
                "gradient_accumulation_steps": args.gradient_accumulation_steps,
                "world_size": args.world_size,
                "learning_rate": args.learning_rate,
                "max_grad_norm": args.max_grad_norm,
                **sharing_rows(pipeline.trainer),
            }
        return facts

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device, settings and the pipeline's own notes, for the report."""
        import torch

        pipeline = self.pipeline
        # FSDP leaves the model in host memory until it trains.
        device = pipeline.device if pipeline.trainer is None else pipeline.trainer.args.device
        if device.type == "cuda":
            hardware = torch.cuda.get_device_name(device)
        else:
            hardware = f"{device.type}, {torch.get_num_threads()} threads"
        return {
            "python": platform.python_version(),
            "platform": sys.platform,
            **_versions(),
            "device": hardware,
            "settings": settings_of(pipeline),
            "notes": list(pipeline.notes),
        }


def _load_objectives() -> None:
    load_package("trainsanity.objectives")
    load_plugins(GROUP)


def check_declared(objective: object, where: str) -> None:
    """Refuse a declared objective that does not exist.

    Args:
        objective: as the user declared it; None if nothing was.
        where: that place, for the message.

    Raises:
        UsageError: it names no objective.
    """
    if objective is not None:
        _load_objectives()
        require_declared(objective, where)


def _recognised(pipeline: Pipeline, objective: Objective) -> str:
    """Return what an objective was recognised by, in words."""
    if objective.name == UNKNOWN:
        return "neither Trainer nor model names one: judged by what holds for any loss"
    if objective.name == CUSTOM:
        return "declared by the user"
    package = type(objective).__module__.partition(".")[0]
    if package != __package__.partition(".")[0]:
        return f"recognised by {package}"
    trainer, model = pipeline.trainer, class_name(unwrapped(pipeline.model))
    own = trainer is not None and any(
        cls.__module__.partition(".")[0] not in ("transformers", "builtins")
        and not cls.__module__.startswith("__")
        for cls in type(trainer).__mro__
    )
    if objective.by_trainer and own:
        return f"recognised by its Trainer, {type(trainer).__name__}"
    if objective.by_trainer:
        return "recognised by the columns of its rows"
    return f"recognised by its model, {model}"


def objective_of(pipeline: Pipeline) -> Objective:
    """Return the pipeline's objective, decided once."""
    return Session.of(pipeline).objective


@functools.cache
def _versions() -> dict[str, str]:
    """Return installed versions of what a run depends on; cached, because reads are slow."""
    from importlib import metadata

    versions = {}
    for package in ("torch", "transformers", "accelerate", "datasets", "tokenizers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
