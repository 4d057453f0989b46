"""The run that TrainParity cuts and resumes: ``FACTORY CHECKPOINT.tar STEPS [RESUME_FROM.tar]``."""

from __future__ import annotations

import importlib
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any


def run(factory: str, checkpoint: str, steps: int, resume_from: str | None = None) -> None:
    """Train, save at the last of these steps, pack the checkpoint into one file."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        """The schedule stays that of the whole run."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step >= steps:
                control.should_save = control.should_training_stop = True

    module, _, name = factory.partition(":")
    trainer = getattr(importlib.import_module(module), name)()
    trainer.add_callback(Stop())
    with tempfile.TemporaryDirectory() as folder:
        start = None
        if resume_from:
            start = Path(folder, "start", Path(f"checkpoint-{steps}"))
            with tarfile.open(resume_from) as packed:
                packed.extractall(start, filter="data")
        trainer.args.output_dir = folder
        trainer.train(resume_from_checkpoint=str(start) if start else None)
        with tarfile.open(checkpoint, "w") as packed:
            for file in Path(folder, f"checkpoint-{steps}").iterdir():
                packed.add(file, file.name)


if __name__ == "__main__":
    factory, checkpoint, steps, *resume = sys.argv[1:]
    run(factory, checkpoint, int(steps), *resume)
