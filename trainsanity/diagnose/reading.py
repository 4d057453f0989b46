"""Read a log from a file, a folder of checkpoints, event files, or stdin."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from trainsanity.diagnose.blocks import LARGE, lines_between
from trainsanity.diagnose.entries import SUMMARY, Log, entry_of
from trainsanity.diagnose.formats import Cut, Line, document, lines_of
from trainsanity.errors import UsageError, first_line

ACCEPTED = (
    "give a trainer_state.json, a folder of checkpoints, the lines that Trainer prints "
    "({'loss': ...}), JSON lines, TensorBoard event files, or a table or CSV with a header such as "
    "step, loss, grad_norm, learning_rate"
)
MOST = 10**9
"""More than any setting of a run; a larger number in a file is a mistake."""

PICKLE = "training_args.bin"
"""It has all settings, and is never opened: reading a pickle runs what is in it."""

PIECE = 1 << 16
"""Characters read at once; longer lines are read in pieces."""

_OTHERS = {
    "Keras": re.compile(r"Epoch \d+/\d+|- loss: [\d.]+"),
    "fairseq": re.compile(r"\| (train|train_inner) \|.*loss"),
    "Megatron-LM": re.compile(r"iteration\s+\d+/\s*\d+ \|.*lm loss:"),
    "torchtune": re.compile(r"Step \d+ \| loss:"),
    "Lightning": re.compile(r"\bv_num="),
    "another framework": re.compile(r"\bloss\s*[:= ]\s*[-\d.]+", re.IGNORECASE),
}


def read(target: str) -> Log:
    """Read the log that ``target`` names; ``-`` is stdin.

    Raises:
        UsageError: it does not exist or cannot be read as a log.
    """
    if target == "-" and sys.stdin is None:
        raise UsageError(f"stdin is closed; {ACCEPTED}")
    if target == "-":
        return _text(Log("stdin"), sys.stdin.buffer)
    path = Path(target)
    try:
        if not path.exists():
            raise UsageError(f"there is no file or folder {target!r}")
        if path.name == PICKLE:
            raise UsageError(
                f"{target} is a pickle, which is not opened: reading it would run what is in it; "
                "give the folder or its trainer_state.json, and settings as options"
            )
        if path.is_dir():
            return _folder(path)
        if path.name.startswith("events.out.tfevents"):
            return _events(Log(target), [path])
        with path.open("rb") as stream:
            log = _text(Log(target), stream)
    except OSError as error:
        raise UsageError(f"{target} cannot be read: {error.strerror or error}") from error
    if path.name == "trainer_state.json":
        log.facts |= _labels(path.parent)
    return log


def _folder(path: Path) -> Log:
    states = sorted(path.glob("checkpoint-*/trainer_state.json"), key=_checkpoint)
    states += [own] if (own := path / "trainer_state.json").is_file() else []
    events = sorted([*path.glob("events.out.tfevents*"), *path.glob("runs/*/events.out.tfevents*")])
    if not states and not events:
        raise UsageError(
            f"{path} has no checkpoint-*/trainer_state.json and no TensorBoard event files; "
            + ACCEPTED
        )
    unread: list[str] = []
    # Each checkpoint repeats the history of those before it.
    for state in reversed(states):
        try:
            log = read(str(state))
        except UsageError as error:
            unread.append(f"not read: {error}")
            continue
        log.notes += unread
        if (state.parent / PICKLE).exists():
            log.notes.append(f"{PICKLE} is a pickle and is not opened: settings that only it has "
                             "are given as options")  # fmt: skip
        if len(states) > 1:
            log.notes.append(f"read from {state.parent.name}, the latest of {len(states)} states")
        return log
    if not events:
        raise UsageError(unread[0].removeprefix("not read: "))
    return _events(Log(str(path)), events)


def _checkpoint(state: Path) -> int:
    number = state.parent.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1  # "²" is a digit and no number


def _labels(folder: Path) -> dict[str, Any]:
    """Return the number of classes in the checkpoint's config; nothing for other tasks."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(config, dict) or config.get("problem_type") not in (
        None,
        "single_label_classification",
    ):
        return {}
    classes = config.get("id2label")
    heads = " ".join(map(str, config.get("architectures") or ()))
    if "ForSequenceClassification" not in heads or not isinstance(classes, dict):
        return {}
    hidden = config.get("hidden_size")
    facts = {"num_labels": len(classes)} if len(classes) > 1 else {}
    usable = type(hidden) is int and 0 < hidden <= MOST
    return facts | ({"hidden_size": hidden} if usable else {})


def _text(log: Log, stream: BinaryIO) -> Log:
    encoding = _encoding(stream)
    large = encoding == "utf-8-sig" and _is_large(stream)
    # Progress bars end their lines with a carriage return; the newline mode takes it for one.
    text = io.TextIOWrapper(stream, encoding=encoding, errors="replace")
    sample: list[str] = []
    lines = lines_between(stream, log, _pieces) if large else _pieces(text)
    try:
        for place, values in _entries(_sampled(lines, sample), log):
            entry = entry_of(values, place)
            if entry is not None:
                log.add(entry)
    except Cut:
        log.notes.append("the log ends in the middle of an entry; what comes before it is judged")
    finally:
        text.detach()
    if log.empty:
        raise UsageError(_nothing(log.name, sample, bool(log.notes)))
    return log.closed()


def _encoding(stream: BinaryIO) -> str:
    """Return the encoding that the first bytes show; PowerShell writes UTF-16.

    Raises:
        UsageError: the file is binary.
    """
    peek = getattr(stream, "peek", None)
    start = bytes(peek(4096)[:4096]) if peek else b""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if b"\0" in start:
        raise UsageError(f"that is a binary file, not a log; {ACCEPTED}")
    return "utf-8-sig"


def _is_large(stream: BinaryIO) -> bool:
    """Return whether it is a long log of lines."""
    try:
        if os.fstat(stream.fileno()).st_size < LARGE:
            return False
    except (OSError, ValueError):  # no file
        return False
    peek = getattr(stream, "peek", None)
    start = bytes(peek(4096)[:4096]) if peek else b""
    lines = start.decode("utf-8-sig", errors="replace").lstrip().split("\n")
    return len(lines) > 1 and not _is_document(lines[0])


def _pieces(text: io.TextIOWrapper, number: int = 1) -> Iterator[Line]:
    """Yield lines with their numbers; the pieces of a long line share a number."""
    whole = True
    while piece := text.readline(PIECE):
        yield number, piece
        whole = piece.endswith("\n")
        number += whole


def _sampled(lines: Iterator[Line], sample: list[str]) -> Iterator[Line]:
    """Yield the lines, and keep the first ones that are not blank as a sample."""
    for number, line in lines:
        if len(sample) < 50 and line.strip():
            sample.append(line[:500])
        yield number, line


def _entries(lines: Iterator[Line], log: Log) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield places and values of a JSON document over several lines, or of a log of lines."""
    first = next(((n, line) for n, line in lines if line.strip()), None)
    if first is None:
        return
    every = itertools.chain([first], lines)
    read_as = document if _is_document(first[1].lstrip()) else lines_of
    found = read_as(every, log.facts)
    for number, values in found:
        yield f"line {number}", values


def _is_document(start: str) -> bool:
    """Return whether a log's first line begins a JSON document over several lines."""
    opens = start[0] in "{[" and (not start.rstrip().endswith("}") or "log_history" in start)
    return opens and not _is_flat(start)


def _is_flat(start: str) -> bool:
    """Return whether the line is no beginning of a document, e.g. ``[rank0] {'loss': ...}``."""
    return re.match(r"[\[{]\s*$|[\[{]\s*[\[{\"]", start) is None


def _nothing(name: str, sample: list[str], cut: bool) -> str:
    """Return the error message for a log without an entry."""
    if not sample:
        return f"{name} is empty: nothing was logged, or the output went elsewhere; {ACCEPTED}"
    if cut:
        return f"{name} is JSON that ends in the middle, and there is no entry before that"
    text = "".join(sample)
    if '"log_history"' in text:
        return (
            f"{name} has no logged loss: the run ended before the first of logging_steps; "
            "logging_first_step=True logs step 1"
        )
    if SUMMARY in text:
        return (
            f"{name} has no logged loss, only the Trainer's summary ({SUMMARY}), whose train_loss "
            "is a mean over the whole run; logging_strategy='steps' logs the others"
        )
    for framework, pattern in _OTHERS.items():
        if pattern.search(text):
            return f"{name} looks like a log of {framework}, which is not read; {ACCEPTED}"
    return f"{name} has no entry with a loss; {ACCEPTED}"


def _events(log: Log, paths: list[Path]) -> Log:
    """Read TensorBoard's scalars, step by step."""
    try:
        loading = import_module("tensorboard.backend.event_processing.event_file_loader")
    except ImportError as error:
        raise UsageError(
            "TensorBoard's event files are read with its package: pip install tensorboard"
        ) from error
    for path in paths:
        values: dict[str, Any] = {}
        for event in _loaded(loading.EventFileLoader(str(path)), path):
            if values and event.step != values["step"]:
                _add(log, values)
                values = {}
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
                values |= {"step": event.step, value.tag: number}
        _add(log, values)
    if log.empty:
        raise UsageError(f"{log.name} has no scalar called train/loss or eval/loss")
    return log.closed()


def _loaded(loader: Any, path: Path) -> Iterator[Any]:
    try:
        yield from loader.Load()
    except Exception as error:  # the loader raises what protobuf and tensorflow stubs raise
        raise UsageError(f"{path} cannot be read as event file: {first_line(error)}") from error


def _add(log: Log, values: Mapping[str, Any]) -> None:
    entry = entry_of(values, f"step {values.get('step')}")
    if entry is not None:
        log.add(entry)
