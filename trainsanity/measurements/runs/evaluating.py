"""The state in which a Trainer's own ``evaluate()`` is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainsanity.isolation.snapshot import preserved, restored
from trainsanity.isolation.temp_folders import scratch
from trainsanity.measurements.batches.batch import quiet
from trainsanity.measurements.batches.special_tokens import align_special_tokens

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@contextmanager
def evaluating(pipeline: Pipeline, data: Any, callbacks: Sequence[Any] = ()) -> Iterator[None]:
    """Have the Trainer evaluate ``data`` as inside ``train()``; everything is put back afterwards.

    Args:
        pipeline: one with a Trainer.
        data: rows in place of its evaluation data.
        callbacks: those that will be told of it, whose state is put back, too.
    """
    trainer = pipeline.trainer
    with (
        scratch() as folder,
        preserved(pipeline, weights=True),
        quiet(pipeline),
        restored([trainer.compute_metrics, *callbacks]),
    ):
        if pipeline.config is not None:
            align_special_tokens(pipeline)  # as inside train(), where evaluation takes place
        trainer.callback_handler.callbacks = []  # what sends, shows or saves
        # As inside train(): a compute_loss of the user's own may read it.
        trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
        trainer.optimizer = None  # one that is free of schedules would be told to evaluate
        trainer.args.output_dir = folder
        trainer.args.disable_tqdm = True
        trainer.args.dataloader_num_workers = 0
        trainer.args.dataloader_prefetch_factor = None
        trainer.args.dataloader_persistent_workers = False
        trainer.eval_dataset = data
        yield
