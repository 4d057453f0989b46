"""TrainParity, as its README says: three declared equivalences, the cases for them written here.

- Accumulation: a batch in one piece against the same batch in two, loss from the Trainer's own
  ``compute_loss``, its numerator and denominator counted as the Trainer counts them.  Faults of
  stages before the model are in both and it is not asked about them; it takes 20 seconds.
- Coverage: the rows that the Trainer's own loader draws in an epoch, each exactly once.
- Resume: the run itself, straight against cut and resumed (`resumed_run.py`); weights, optimizer
  and scheduler of the last checkpoint are compared.  Asked, as all runs are, for the faults around
  the steps.

PASS, FAIL, ABSTAIN and ERROR are its own; only FAIL is red.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import trainparity.accumulation
import trainparity.process_resume
from trainparity import ExactlyOnce, Outcome, ToleranceComparison
from trainparity.api import (
    AccumulationExecutionPlan,
    LossAccounting,
    ProcessExecutionPlan,
    TrainingState,
    audit_rank_iterables,
    check_accumulation,
    check_resume,
)

from . import forked
from .looks import Look, line
from .subjects import Subject, subjects

PACKAGE = "trainparity"

STAGES = {
    "accumulation": {"loss", "gradient", "update", "schedule", "model"},
    "coverage": {"loop", "dataset"},
    "resume": {"loop"},
}
"""By check, the stages that its phases stand for."""

CLOSE = ToleranceComparison(rtol=1e-4, atol=1e-6)
"""Declared by the user, as it asks: float32 sums of two micro-batches have another order."""

COARSE = ToleranceComparison(rtol=5e-2, atol=1e-3)
"""The same where arithmetic is in bfloat16."""


def look(subject: Subject) -> Look:
    """All three, where they have something to look at."""
    from .wiring import trainer_of

    trainparity.accumulation.subprocess = forked
    trainparity.process_resume.subprocess = forked
    said = Look()
    case = f"{__name__}:{subject.id.replace(':', '__')}"
    trainer = trainer_of(subject)
    half = trainer.args.bf16 or any(p.dtype is torch.bfloat16 for p in trainer.model.parameters())
    _coverage(said, trainer)
    del trainer
    if subject.is_fault and not subject.stages & STAGES["accumulation"]:
        said.unable["accumulation"] = "not asked: both sides are given the same collated batch"
    else:
        result = check_accumulation(
            f"{case}__accumulation",
            candidate=AccumulationExecutionPlan(2),
            comparison=COARSE if half else CLOSE,
        )
        _take(said, "accumulation", result)
    if subject.runs:
        _take(said, "resume", check_resume(f"{case}__resume", comparison=CLOSE))
    return said


def _take(said: Look, name: str, result: Any) -> None:
    if result.outcome is Outcome.FAIL:
        said.red[name] = line(f"{result.message} {getattr(result, 'first_violation', '') or ''}")
    elif result.outcome is not Outcome.PASS:
        said.unable[name] = f"{result.outcome.value}: {line(result.message)}"


def _coverage(said: Look, trainer: Any) -> None:
    try:
        size = len(trainer.train_dataset)
    except TypeError:
        said.unable["coverage"] = "the data has no length, so no universe of rows can be declared"
        return
    batches = trainer.get_train_dataloader().batch_sampler
    result = audit_rank_iterables(
        {0: batches}, sample_id_extractor=list, policy=ExactlyOnce(tuple(range(size)))
    )
    _take(said, "coverage", result)


class Accumulation:
    """The base of the cases; a subclass names its pipeline."""

    equivalence = "the same rows of one batch; the mean over all that the Trainer counts"
    subject: Subject

    def build(self, seed: int, device: str) -> TrainingState:
        """The Trainer's model, optimizer and scheduler."""
        from .wiring import optimizer_of, trainer_of

        self.trainer = trainer_of(self.subject)
        optimizer = optimizer_of(self.trainer)
        return TrainingState(self.trainer.model_wrapped, optimizer, self.trainer.lr_scheduler)

    def batch(self, device: str) -> object:
        """The first one of its loader."""
        from .wiring import first_batch

        return first_batch(self.trainer)

    def loss(self, state: TrainingState, batch: object) -> LossAccounting:
        """The Trainer's own loss, a mean over what it counts."""
        from .wiring import counted

        assert isinstance(batch, dict)
        items = counted(self.trainer, [batch])
        count = len(batch["input_ids"]) if items is None else int(items)
        value = self.trainer.compute_loss(state.model, dict(batch))
        return LossAccounting(value, value * count, count)


class Resume:
    """The base of the cases; a subclass names its pipeline."""

    split_step = 2
    total_step = 3
    subject: Subject

    @property
    def name(self) -> str:
        """As it wants one."""
        return self.subject.name

    def command(self, plan: ProcessExecutionPlan) -> list[str]:
        """The run, up to a step, from a checkpoint if there is one."""
        command = [sys.executable, "-m", "tests.score.resumed_run", self.subject.factory]
        command += [str(self.checkpoint_path(plan.run_dir)), str(plan.end_step)]
        return [*command, str(plan.resume_from)] if plan.resume_from else command

    def checkpoint_path(self, run_dir: Path) -> Path:
        """A Trainer's checkpoint is a folder, and it wants a file."""
        return run_dir / "checkpoint.tar"

    def observe_checkpoint(self, path: Path) -> Mapping[str, object]:
        """Weights, optimizer, scheduler."""
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as folder, tarfile.open(path) as packed:
            packed.extractall(folder, filter="data")
            seen: dict[str, object] = {}
            for weights in Path(folder).glob("*.safetensors"):
                seen["model"] = dict(load_file(weights))
            for name in ("optimizer", "scheduler"):
                file = Path(folder) / f"{name}.pt"
                seen[name] = torch.load(file, weights_only=True) if file.exists() else None
            return seen


def __getattr__(name: str) -> type:
    """``fault__NAME__accumulation`` and so on: TrainParity imports a case by its name."""
    *subject, kind = name.split("__", 1)[-1].rsplit("__", 1)
    prefix = name.split("__", 1)[0]
    base = {"accumulation": Accumulation, "resume": Resume}.get(kind)
    found = subjects().get(f"{prefix}:{''.join(subject)}")
    if base is None or found is None:
        raise AttributeError(name)
    return type(name, (base,), {"subject": found})
