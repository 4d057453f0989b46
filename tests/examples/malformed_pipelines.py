"""Pipelines that nobody can train, by name: what users hand over by mistake.

``malformed_pipelines:rows_label_is_text`` and the like; each is one way to be wrong.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

from cli_factories import _rows, _trainer

CASES: dict[str, Callable[[], Any]] = {}


def __getattr__(name: str) -> Callable[[], Any]:
    try:
        return CASES[name]
    except KeyError:
        raise AttributeError(name) from None


# --- rows -----------------------------------------------------------------------------------------


def _with(**columns: Any) -> list[dict[str, Any]]:
    """Twelve rows, these columns in all of them."""
    return [{**row, **columns} for row in _rows(12)]


def _one(**columns: Any) -> list[dict[str, Any]]:
    """Twelve rows, these columns in the first of them."""
    first, *rest = _rows(12)
    return [{**first, **columns}, *rest]


def _without(name: str) -> list[dict[str, Any]]:
    first, *rest = _rows(12)
    return [{key: value for key, value in first.items() if key != name}, *rest]


class _Odd:
    """A dataset of twelve rows that is made by hand."""

    def __init__(self, read: Callable[[int], Any], size: Any = 12) -> None:
        self.read, self.size = read, size

    def __len__(self) -> Any:
        return self.size() if callable(self.size) else self.size

    def __getitem__(self, k: int) -> Any:
        return self.read(k)


def _raise(error: BaseException) -> Any:
    raise error


def _broken_at(place: int, error: BaseException) -> Callable[[int], Any]:
    return lambda k: _raise(error) if k == place else _rows(12)[k]


ROWS: dict[str, Callable[[], Any]] = {
    "label_too_large": lambda: _one(labels=99),
    "label_negative": lambda: _one(labels=-1),
    "label_a_fraction": lambda: _with(labels=1.5),
    "label_text": lambda: _with(labels="positive"),
    "label_none": lambda: _with(labels=None),
    "label_none_once": lambda: _one(labels=None),
    "label_nan": lambda: _with(labels=math.nan),
    "label_inf": lambda: _with(labels=math.inf),
    "label_missing_once": lambda: _without("labels"),
    "label_huge": lambda: _with(labels=10**20),
    "label_a_list": lambda: _with(labels=[0, 1]),
    "label_a_dict": lambda: _with(labels={"class": 1}),
    "label_empty_list": lambda: _with(labels=[]),
    "ids_text": lambda: _with(input_ids="hello!"),
    "ids_words": lambda: _with(input_ids=["a", "b", "c", "d", "e", "f"]),
    "ids_fractions": lambda: _with(input_ids=[0.5] * 6),
    "ids_negative": lambda: _with(input_ids=[-1] * 6),
    "ids_negative_once": lambda: _one(input_ids=[1, 2, -7, 4, 5, 6]),
    "ids_beyond_vocabulary": lambda: _with(input_ids=[50] * 6),
    "ids_beyond_vocabulary_once": lambda: _one(input_ids=[1, 2, 3, 4, 5, 10**6]),
    "ids_huge": lambda: _with(input_ids=[2**63] * 6),
    "ids_empty": lambda: _with(input_ids=[], attention_mask=[]),
    "ids_empty_once": lambda: _one(input_ids=[], attention_mask=[]),
    "ids_none": lambda: _with(input_ids=None),
    "ids_a_number": lambda: _with(input_ids=7),
    "ids_nested": lambda: _with(input_ids=[[1, 2, 3, 4, 5, 6]]),
    "ids_ragged_nest": lambda: _with(input_ids=[[1], [2, 3]]),
    "ids_missing": lambda: [{"attention_mask": [1] * 6, "labels": 0} for _ in range(12)],
    "ids_missing_once": lambda: _without("input_ids"),
    "ids_ragged": lambda: _one(input_ids=[1, 2, 3]),
    "mask_short": lambda: _with(attention_mask=[1, 1]),
    "mask_missing_once": lambda: _without("attention_mask"),
    "mask_of_zeros": lambda: _with(attention_mask=[0] * 6),
    "mask_text": lambda: _with(attention_mask=["yes"] * 6),
    "mask_nan": lambda: _with(attention_mask=[math.nan] * 6),
    "mask_none": lambda: _with(attention_mask=None),
    "are_lists": lambda: [[1, 2, 3] for _ in range(12)],
    "are_none": lambda: [None] * 12,
    "are_text": lambda: ["a text"] * 12,
    "are_numbers": lambda: list(range(12)),
    "are_empty": lambda: [{} for _ in range(12)],
    "have_number_keys": lambda: [{0: [1, 2, 3], 1: 2} for _ in range(12)],
    "one_is_none": lambda: [*_rows(11), None],
    "a_dict": lambda: {"train": _rows(12)},
    "a_text": lambda: "train.csv",
    "a_number": lambda: 12,
    "a_generator": lambda: (row for row in _rows(12)),
    "a_function": lambda: lambda: _rows(12),
    "a_class": lambda: _Odd,
    "reading_raises": lambda: _Odd(_broken_at(0, OSError("the disk is gone"))),
    "reading_raises_later": lambda: _Odd(_broken_at(7, KeyError("text"))),
    "reading_exits": lambda: _Odd(_broken_at(0, SystemExit(0))),
    "length_raises": lambda: _Odd(lambda k: _rows(12)[k], lambda: _raise(OSError("no index"))),
    "length_negative": lambda: _Odd(lambda k: _rows(12)[k], -1),
    "length_text": lambda: _Odd(lambda k: _rows(12)[k], "twelve"),
    "length_too_long": lambda: _Odd(lambda k: _rows(12)[k], 500),
    "length_nought": lambda: _Odd(lambda k: _rows(12)[k], 0),
}


def _rows_case(rows: Callable[[], Any]) -> Any:
    trainer = _trainer()
    trainer.train_dataset = rows()
    return trainer


# --- collators ------------------------------------------------------------------------------------


def _made(rows: Any, **changes: Any) -> Any:
    from transformers import default_data_collator

    made = dict(default_data_collator(rows))
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def _torch(name: str, *args: Any, **kwargs: Any) -> Any:
    import torch

    return getattr(torch, name)(*args, **kwargs)


COLLATORS: dict[str, Any] = {
    "returns_none": lambda rows: None,
    "returns_a_list": lambda rows: rows,
    "returns_nothing": lambda rows: {},
    "returns_text": lambda rows: "a batch",
    "returns_a_number": lambda rows: 3,
    "raises": lambda rows: 1 / 0,
    "raises_without_words": lambda rows: _raise(ValueError()),
    "exits": lambda rows: sys.exit(0),
    "drops_labels": lambda rows: _made(rows, labels=None),
    "drops_ids": lambda rows: _made(rows, input_ids=None),
    "makes_words": lambda rows: _made(rows, input_ids=[["a"]] * len(rows)),
    "drops_a_row": lambda rows: {k: v[1:] for k, v in _made(rows).items()},
    "drops_all_rows": lambda rows: {k: v[:0] for k, v in _made(rows).items()},
    "drops_a_label": lambda rows: _made(rows, labels=_made(rows)["labels"][1:]),
    "makes_labels_of_rank_2": lambda rows: _made(rows, labels=_made(rows)["labels"][:, None]),
    "makes_labels_text": lambda rows: _made(rows, labels=["a"] * len(rows)),
    "makes_labels_out_of_range": lambda rows: _made(rows, labels=_made(rows)["labels"] + 40),
    "makes_labels_ignored": lambda rows: _made(rows, labels=_made(rows)["labels"] * 0 - 100),
    "flattens": lambda rows: _made(rows, input_ids=_made(rows)["input_ids"].flatten()),
    "stacks_twice": lambda rows: _made(rows, input_ids=_made(rows)["input_ids"][None]),
    "makes_floats": lambda rows: _made(rows, input_ids=_made(rows)["input_ids"].float()),
    "makes_negative_ids": lambda rows: _made(rows, input_ids=-1 - _made(rows)["input_ids"]),
    "makes_meta": lambda rows: {k: v.to("meta") for k, v in _made(rows).items()},
    "cuts_the_mask": lambda rows: _made(rows, attention_mask=_made(rows)["attention_mask"][:, 1:]),
    "makes_mask_nan": lambda rows: _made(
        rows, attention_mask=_torch("full", (len(rows), 6), math.nan)
    ),
    "adds_unknown_keys": lambda rows: _made(rows, colour=_torch("zeros", len(rows))),
    "takes_nothing": lambda *, rows: {},
    "is_a_number": 3,
    "is_text": "pad",
    "is_a_generator": lambda rows: (_ for _ in rows),
    "shuffles_labels": lambda rows: _made(rows, labels=_made(rows)["labels"].roll(1)),
    "repeats_a_row": lambda rows: _made([rows[0]] * len(rows)),
}


def _collator_case(collator: Any) -> Any:
    trainer = _trainer()
    trainer.data_collator = collator
    return trainer


# --- models ---------------------------------------------------------------------------------------


def _forward(change: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Let the model return what ``change`` makes of its output."""

    def apply(trainer: Any) -> None:
        forward = trainer.model.forward
        trainer.model.forward = functools.wraps(forward)(lambda *a, **k: change(forward(*a, **k)))

    return apply


def _output(**changes: Any) -> Callable[[Any], None]:
    def change(output: Any) -> Any:
        for name, made in changes.items():
            output[name] = made(output[name])
        return output

    return _forward(change)


def _recurse(output: Any) -> Any:
    return _recurse(output)


MODELS: dict[str, Callable[[Any], Any]] = {
    "raises": _forward(lambda output: _raise(RuntimeError("shapes\ndo not match"))),
    "raises_an_interrupted_word": _forward(
        lambda output: _raise(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"))
    ),
    "runs_out_of_memory": _forward(lambda output: _raise(MemoryError())),
    "recurses": _forward(_recurse),
    "exits": _forward(lambda output: sys.exit(0)),
    "returns_none": _forward(lambda output: None),
    "returns_text": _forward(lambda output: "logits"),
    "returns_an_empty_tuple": _forward(lambda output: ()),
    "loses_its_graph": _output(loss=lambda loss: loss.detach()),
    "makes_a_vector_of_its_loss": _output(loss=lambda loss: loss * _torch("ones", 4)),
    "makes_a_number_of_its_loss": _output(loss=float),
    "makes_text_of_its_loss": _output(loss=str),
    "makes_nan_of_its_loss": _output(loss=lambda loss: loss * math.nan),
    "makes_nan_of_its_logits": _output(logits=lambda logits: logits * math.nan),
    "makes_inf_of_its_logits": _output(logits=lambda logits: logits + math.inf),
    "flattens_its_logits": _output(logits=lambda logits: logits.flatten()),
    "is_frozen": lambda trainer: trainer.model.requires_grad_(False),
    "is_nan": lambda trainer: trainer.model.classifier.weight.data.fill_(math.nan),
    "is_meta": lambda trainer: trainer.model.to("meta"),
    "has_another_head": lambda trainer: setattr(
        trainer.model, "classifier", _torch_nn().Linear(3, 2)
    ),
    "is_none": lambda trainer: setattr(trainer, "model", None),
    "is_text": lambda trainer: setattr(trainer, "model", "bert-base"),
    "has_no_parameters": lambda trainer: setattr(trainer, "model", _torch_nn().Identity()),
}


def _torch_nn() -> Any:
    import torch

    return torch.nn


def _model_case(change: Callable[[Any], Any]) -> Any:
    trainer = _trainer()
    change(trainer)
    return trainer


# --- arguments ------------------------------------------------------------------------------------

ARGUMENTS: dict[str, tuple[str, Any]] = {
    f"{name}_{k}": (name, value)
    for name, values in {
        "per_device_train_batch_size": (0, -1, "four", None, math.nan),
        "gradient_accumulation_steps": (0, -3, "two", None),
        "learning_rate": ("1e-3", None, math.nan, math.inf, -1.0),
        "max_grad_norm": ("one", math.nan),
        "lr_scheduler_type": ("nope", 3),
        "optim": ("nope", 3),
        "warmup_steps": ("some", None, math.nan),
        "label_smoothing_factor": ("much",),
        "label_names": (5,),
        "logging_steps": ("often",),
        "weight_decay": ("much", math.nan),
        "adam_beta1": (2.0, "x"),
        "max_steps": ("ten", None),
        "dataloader_num_workers": (-1, "two"),
        "output_dir": (3,),
    }.items()
    for k, value in enumerate(values)
}


def _argument_case(name: str, value: Any) -> Any:
    trainer = _trainer()
    setattr(trainer.args, "_train_batch_size" if name == "train_batch_size" else name, value)
    return trainer


# --- factories ------------------------------------------------------------------------------------


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this can be said")


class Outside(BaseException):
    pass


def _pipeline(**parts: Any) -> Any:
    from trainsanity import Pipeline

    trainer = _trainer()
    return Pipeline(**{"model": trainer.model, "args": trainer.args, **parts})


def _loop(step: Any = None, **changes: Any) -> Any:
    import torch
    from transformers import default_data_collator

    from trainsanity import Pipeline

    trainer = _trainer()
    parts = {
        "model": trainer.model,
        "train_dataset": _rows(12),
        "data_collator": default_data_collator,
        "train_step": step or (lambda micros: 0.0),
        "optimizer": torch.optim.SGD(trainer.model.parameters(), lr=0.1),
        "per_device_train_batch_size": 4,
    }
    return Pipeline.from_loop(**{**parts, **changes})


def _trained() -> Any:
    trainer = _trainer()
    trainer.model.classifier.weight.data.mul_(math.nan)
    trainer.train()
    return trainer


FACTORIES: dict[str, Callable[[], Any]] = {
    "returns_none": lambda: None,
    "returns_a_number": lambda: 3,
    "returns_text": lambda: "a trainer",
    "returns_a_class": lambda: type(_trainer()),
    "returns_a_list": lambda: [_trainer()],
    "returns_a_pair": lambda: (_trainer(), None),
    "returns_a_dict": lambda: {"trainer": _trainer()},
    "returns_a_function": lambda: _trainer,
    "returns_a_generator": lambda: (one for one in [_trainer()]),
    "returns_arguments": lambda: _trainer().args,
    "raises_without_words": lambda: _raise(ValueError()),
    "raises_many_lines": lambda: _raise(ValueError("one\n\n\ntwo\r\nthree\x1b[31m")),
    "raises_a_megabyte": lambda: _raise(ValueError("x" * 1_000_000)),
    "raises_what_cannot_be_said": lambda: _raise(Unspeakable()),
    "raises_surrogates": lambda: _raise(ValueError("\udcff\ud800")),
    "raises_a_group": lambda: _raise(ExceptionGroup("both", [ValueError("a"), OSError("b")])),
    "raises_out_of_memory": lambda: _raise(MemoryError()),
    "raises_stop": lambda: _raise(StopIteration()),
    "raises_generator_exit": lambda: _raise(GeneratorExit()),
    "raises_outside_exception": lambda: _raise(Outside("not an Exception")),
    "raises_broken_pipe": lambda: _raise(BrokenPipeError("a socket of yours")),
    "raises_click_exit": lambda: _raise(_click().exceptions.Exit(0)),
    "raises_click_abort": lambda: _raise(_click().Abort()),
    "raises_click_error": lambda: _raise(_click().ClickException("mine")),
    "raises_a_class": lambda: _raise(KeyError),  # type: ignore[arg-type]
    "recurses": lambda: _recurse(None),
    "exits_with_0": lambda: sys.exit(0),
    "exits_with_none": sys.exit,
    "exits_with_text": lambda: sys.exit("usage: train.py"),
    "wants_an_argument": lambda path: _trainer(),  # type: ignore[dict-item, misc]
    "imports_what_is_not_there": lambda: __import__("no_such_dependency"),
    "asserts": lambda: _raise(AssertionError()),
    "makes_a_pipeline_without_a_model": lambda: _pipeline(model=None),
    "makes_a_pipeline_of_text": lambda: _pipeline(model="bert"),
    "loop_without_a_step": lambda: _loop(train_step=None),
    "loop_with_a_number_for_a_step": lambda: _loop(step=3),
    "loop_returns_none": lambda: _loop(lambda micros: None),
    "loop_returns_text": lambda: _loop(lambda micros: "0.5"),
    "loop_returns_nan": lambda: _loop(lambda micros: math.nan),
    "loop_raises": lambda: _loop(lambda micros: 1 / 0),
    "loop_does_nothing": _loop,
    "loop_without_an_optimizer": lambda: _loop(optimizer=None),
    "loop_with_an_unknown_argument": lambda: _loop(batch_size=3),
    "loop_with_a_batch_of_nought": lambda: _loop(per_device_train_batch_size=0),
    "loop_without_data": lambda: _loop(train_dataset=None),
    "returns_a_trainer_that_trained_to_nan": _trained,
}


def _click() -> Any:
    import click

    return click


CASES |= {f"rows_{n}": functools.partial(_rows_case, rows) for n, rows in ROWS.items()}
CASES |= {f"collator_{n}": functools.partial(_collator_case, c) for n, c in COLLATORS.items()}
CASES |= {f"model_{n}": functools.partial(_model_case, change) for n, change in MODELS.items()}
CASES |= {f"args_{n}": functools.partial(_argument_case, *pair) for n, pair in ARGUMENTS.items()}
CASES |= {f"factory_{n}": factory for n, factory in FACTORIES.items()}
