"""The training loop by itself: no files, no reports, and an end if it takes no step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from trainsanity.errors import UsageError, first_line
from trainsanity.isolation.callbacks import only_during_steps
from trainsanity.types import Blocked, Skip

T = TypeVar("T")


def alone(
    trainer: Any, folder: str, callback: Any, *, first: Any = None, users: Sequence[Any] = ()
) -> None:
    """Leave nothing but the training loop itself: no files, no reports, no evaluation.

    A loop that takes no step raises :class:`NoStep` at the end of its first epoch.

    Args:
        trainer: whose attributes somebody else puts back.
        folder: used in place of ``output_dir``.
        callback: hears of each event last, when the user's callbacks have acted.
        first: hears of it before they have.
        users: the user's callbacks that take part.
    """
    before = [] if first is None else [first]
    trainer.callback_handler.callbacks = [*before, *users, callback, _takes_steps()]
    only_during_steps(trainer.callback_handler, users)
    # train() would make another model, which nobody has looked at.
    trainer.model_init = None
    quiet_arguments = {
        "output_dir": folder,
        "logging_dir": folder,
        "push_to_hub": False,
        "eval_on_start": False,
        "load_best_model_at_end": False,
        "disable_tqdm": True,
    }
    for argument, value in quiet_arguments.items():
        if hasattr(trainer.args, argument):
            setattr(trainer.args, argument, value)


class _Begun(Exception):
    """Raised where training has begun, to end it before its first step."""


def as_training_begins(trainer: Any, folder: str, ask: Callable[[], T]) -> T:
    """Return what ``ask`` returns inside ``train()``, which ends there, before its first step.

    Model and optimizer are prepared by then, as DeepSpeed and FSDP2 have them.

    Args:
        trainer: whose attributes somebody else puts back.
        folder: used in place of ``output_dir``.
        ask: called once.

    Raises:
        Skip: a ``train()`` of the user's own ended and had begun nothing.
    """
    from transformers import TrainerCallback

    returned: list[T] = []

    class Begin(TrainerCallback):
        def on_train_begin(self, *_: Any, **kwargs: Any) -> None:
            returned.append(ask())
            raise _Begun

    alone(trainer, folder, Begin())
    with contextlib.suppress(_Begun):
        trainer.train()
    if not returned:
        raise Skip("train() told no callback that it begins")
    return returned[0]


@contextlib.contextmanager
def resumed_as_meant(output_dir: str, folder: str) -> Iterator[None]:
    """Let a ``train()`` of the user's own that resumes find the checkpoints of its ``output_dir``.

    Raises:
        UsageError: there is no such checkpoint.
    """
    from importlib import import_module

    library: Any = import_module("transformers.trainer")
    last = library.get_last_checkpoint

    def looking(where: str) -> Any:
        return last(output_dir if where == folder else where) if os.path.isdir(output_dir) else None

    library.get_last_checkpoint = looking
    try:
        yield
    except (ValueError, OSError) as error:
        if "checkpoint" not in str(error).lower():
            raise
        said = first_line(error).replace(folder, output_dir)
        raise UsageError(
            f"train() is to resume, and {said}: name a checkpoint that exists, or leave "
            "resume_from_checkpoint out"
        ) from error
    finally:
        library.get_last_checkpoint = last


class NoStep(Blocked):
    """The Trainer went through an epoch of so many micro-batches without an optimizer step."""

    def __init__(self, micro_batches: int) -> None:
        reason = f"an epoch of {micro_batches} micro-batches ends without an optimizer step"
        super().__init__(reason, by="schedule.steps_are_taken")
        self.micro_batches = micro_batches


def _takes_steps() -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """With max_steps there is always a next epoch, which would end like the first."""

        micro_batches = 0

        def on_substep_end(self, *_: Any, **kwargs: Any) -> None:
            self.micro_batches += 1

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not state.global_step:
                raise NoStep(self.micro_batches)

        on_train_end = on_epoch_end

    return Watch()
