"""Factories as users write them, the good and the bad, for tests of the command line.

A directory of its own, so that a test can put just this on the import path.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import weakref
from typing import Any

built: list[str] = []
"""Which factories were called in this process."""


def _trainer(rows: Any = None, batch_size: int = 4, kind: Any = None) -> Any:
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "a", 1: "b", 2: "c"},
        label2id={"a": 0, "b": 1, "c": 2},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    folder = tempfile.mkdtemp(prefix="trainsanity-test-")
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch_size,
        learning_rate=1e-3,
        max_steps=10,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = (kind or Trainer)(model=model, args=arguments, train_dataset=rows or _rows(12))
    weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
    return trainer


def _rows(count: int, label: str = "labels") -> list[dict[str, Any]]:
    ids = [[(7 * row + 3 * place) % 50 for place in range(6)] for row in range(count)]
    return [{"input_ids": x, "attention_mask": [1] * 6, label: sum(x) % 3} for x in ids]


class _Empty(list[Any]):
    """An empty dataset that is not falsy."""

    def __bool__(self) -> bool:
        return True


def healthy() -> Any:
    built.append("healthy")
    return _trainer()


def loud() -> Any:
    """Its loss is three times too large, whatever the transformers version."""
    from transformers import Trainer

    class LoudTrainer(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            return (3 * loss[0], *loss[1:]) if isinstance(loss, tuple) else 3 * loss

    return _trainer(kind=LoudTrainer)


def noisy() -> Any:
    """Prints on every way to stdout that there is, and leaves the directory."""
    print("print from the factory")  # noqa: T201
    assert sys.__stdout__ is not None
    sys.__stdout__.write("write to the real stdout\n")
    os.write(1, b"write to the descriptor\n")
    os.system("echo write of a child process")
    os.chdir(tempfile.gettempdir())
    return _trainer()


def raises() -> Any:
    raise ValueError("the weights are\nnot here")


def exits() -> Any:
    return sys.exit(0)


def interrupted() -> Any:
    raise KeyboardInterrupt


def returns_model() -> Any:
    return _trainer().model


def wants_arguments(path: str) -> Any:
    return _trainer()


def empty() -> Any:
    return _trainer(_Empty())


def larger_batch() -> Any:
    return _trainer(batch_size=16)


def no_labels() -> Any:
    return _trainer(_rows(12, label="target"))


def labels_lost() -> Any:
    trainer = _trainer()
    made = trainer.data_collator
    trainer.data_collator = lambda rows: {
        name: value for name, value in made(rows).items() if name != "labels"
    }
    return trainer


def no_train_dataset() -> Any:
    trainer = _trainer()
    trainer.train_dataset = None
    return trainer


def no_loss() -> Any:
    """A model whose forward returns logits and leaves the loss to somebody else."""
    trainer = _trainer()
    forward = trainer.model.forward

    def without_loss(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return type(output)(logits=output.logits)

    trainer.model.forward = functools.wraps(forward)(without_loss)
    return trainer


not_a_function = 3


def hanging() -> Any:
    """A model that never comes back: a lock of the C library, taken twice."""
    import ctypes

    from trainsanity.isolation import time_limit as limits

    limits.GRACE = 0.5  # one second is enough to see that nothing moves

    def locked(*_args: Any, **_kwargs: Any) -> Any:
        library = ctypes.CDLL(None)
        mutex = ctypes.create_string_buffer(256)
        library.pthread_mutex_lock(mutex)
        library.pthread_mutex_lock(mutex)

    trainer = _trainer()
    trainer.compute_loss = locked
    return trainer


def waits() -> Any:
    """Something that never arrives is waited for while it is built."""
    import time

    return time.sleep(600)


def sleeping() -> Any:
    """A loss that is waited for."""
    import time

    trainer = _trainer()
    trainer.compute_loss = lambda *_args, **_kwargs: time.sleep(600)
    return trainer
