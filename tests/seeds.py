"""Judge every healthy pipeline under other data, order, lengths and weights, and count false reds.

``python -m tests.seeds --seeds 20 -j 16 --out seeds.jsonl`` judges each control of
``fixtures/controls`` and each healthy pipeline of ``fixtures/field`` under seeds 1 to 20, each in a
process forked from one that has loaded everything, and writes a line of JSON for each as it ends.
``--part K/N`` takes every N-th, for several machines.  ``--table FILE...`` prints the observed
rate of false reds with its interval, and what was red; with ``--write`` the counts are kept in
``.ci/seeds.json``, from which the evidence page has its table.

A seed moves the random numbers that weights are drawn from, the training data (a corpus of other
texts and lengths where it is that of ``fixtures/corpus.py``, the order of the rows elsewhere) and
the arguments' own seed, by which the rows are shuffled.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

LIMIT = 600.0
"""Seconds for one pipeline: a machine that runs one on each core is slower than an idle one."""

LEVEL = 1.96
"""Normal quantile of a 95 % interval."""

RECORD = Path(__file__).resolve().parents[1] / ".ci" / "seeds.json"

RED = ("fail", "error", "xpass")
"""Statuses that a healthy pipeline must not have."""


def moved(seed: int, build: Callable[[], Any]) -> Any:
    """Build a pipeline with other random numbers, and another order and length of its rows."""
    import torch
    import transformers

    own = torch.random.manual_seed
    whole = torch.manual_seed

    def other(value: int) -> Any:
        # Controls draw their weights from a seed that they set themselves.
        return whole(int(value) + 7919 * seed)

    torch.manual_seed = torch.random.manual_seed = other
    try:
        transformers.set_seed(seed)
        made = build()
    finally:
        torch.manual_seed, torch.random.manual_seed = whole, own
    trainer = getattr(made, "trainer", None) or made
    arguments = getattr(trainer, "args", None)
    if arguments is not None and hasattr(arguments, "data_seed"):
        arguments.seed = arguments.seed + 7919 * seed
    rows = getattr(trainer, "train_dataset", None)
    if type(rows).__name__ == "Dataset" and type(rows).__module__.startswith("datasets."):
        trainer.train_dataset = rows.shuffle(seed=seed)
    return made


def with_rows(seed: int) -> None:
    """Have the corpus that controls take their texts from written with another seed."""
    from fixtures import corpus

    written = corpus.rows

    def other(count: int, own: int, tokenizer: Any = None) -> Any:
        rows = written(count, own + 7919 * seed, tokenizer)
        draw = random.Random(seed)
        # Texts are cut at a word, so that lengths are others, too; a tenth of them by half.
        texts = [_shortened(text, draw) for text in rows["text"]]
        if len(set(texts)) == len(texts):
            rows["text"] = texts
        return rows

    corpus.rows = other


def _shortened(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    kept = len(words) // 2 if draw.random() < 0.1 else len(words) - draw.randrange(len(words) // 4)
    return " ".join(words[:kept])


def subjects() -> dict[str, Callable[[], Any]]:
    """Return what builds each healthy pipeline of one process, by name."""
    from fixtures.controls import all_controls

    found: dict[str, Callable[[], Any]] = {one.id: one.build for one in all_controls()}
    try:
        from fixtures.field import healthy_ones

        for one in healthy_ones():
            if one.processes == 1:
                found[f"{one.family}:{one.id}"] = one.make
    except ImportError as error:
        _tell(f"the field's healthy pipelines are left out: {error}")
    return found


def accepted() -> dict[str, set[str]]:
    """Return by control the checks that its ``expected_failures`` name or that it reveals."""
    from fixtures.controls import all_controls

    return {one.id: set(one.accepted) for one in all_controls()}


def judged(name: str, seed: int, build: Callable[[], Any], allowed: set[str]) -> dict[str, Any]:
    """Judge a pipeline under a seed, in this process; return a line of the output."""
    import trainsanity
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run

    if seed:
        with_rows(seed)
    spec = trainsanity.PipelineSpec(name, lambda: moved(seed, build) if seed else build())
    start = time.monotonic()
    expected = dict.fromkeys(allowed, "a known false alarm of this control")
    report = spec.visit(
        lambda pipeline: run(pipeline, registry().select(), expected_failures=expected)
    )
    red = {
        result.check.name: {
            "status": str(result.status),
            "text": result.reason or "; ".join(one.headline for one in result.findings),
        }
        for result in report.results
        if str(result.status) in RED
    }
    statuses = Counter(str(result.status) for result in report.results)
    return {"red": red, "statuses": dict(statuses), "exit": int(report.exit_code()),
            "seconds": round(time.monotonic() - start, 1)}  # fmt: skip


def main() -> int:
    """Judge, or print the table of what was judged."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="judge these alone")
    parser.add_argument("--seeds", type=int, default=20, help="seeds 1 to N; 0 is the corpus as is")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every N-th of the pairs")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("seeds.jsonl"), help="lines are added")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--write", metavar="NOTE", help="keep the counts, with the date and a note")
    asked = parser.parse_args()
    if asked.table:
        rows = [json.loads(line) for file in asked.table for line in file.open()]
        _tell(table(counted(rows)))
        if asked.write is not None:
            kept = {"date": f"{datetime.date.today()}", "note": asked.write, **counted(rows)}
            RECORD.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return 0
    return _judge_all(parser, asked)


def _judge_all(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> int:
    from tests.field import tool
    from tests.field.judging import forked

    warnings.simplefilter("ignore")
    every = subjects()
    if asked.list:
        _tell("\n".join(every))
        return 0
    if unknown := set(asked.names) - set(every):
        parser.error(f"no healthy pipeline is called {', '.join(sorted(unknown))}")
    tool.load()
    # What children would import is imported once, before they are forked.
    for heavy in ("torch", "transformers", "datasets", "peft", "trl"):
        with _ignored():
            __import__(heavy)
    number, parts = map(int, asked.part.split("/"))
    seeds = range(asked.first, asked.first + asked.seeds)
    pairs = [(name, seed) for seed in seeds for name in asked.names or every]
    done = {(row["name"], row["seed"]) for row in _read(asked.out)}
    pairs = [pair for pair in pairs[number - 1 :: parts] if pair not in done]
    allowed, lock, bad = accepted(), threading.Lock(), []

    def one(pair: tuple[str, int]) -> None:
        name, seed = pair
        answer = forked(
            lambda: judged(name, seed, every[name], allowed.get(name, set())), limit=LIMIT
        )
        if "red" not in answer or "statuses" not in answer:  # it was not judged
            answer = {"red": {"build": {"status": "error", "text": answer["errors"]["build"]}}}
        row = {"name": name, "seed": seed, **answer}
        with lock:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            bad.extend([pair] if row["red"] else [])
            words = "; ".join(f"{k}: {v['text'][:160]}" for k, v in row["red"].items())
            _tell(f"{'RED' if row['red'] else 'ok':4} {name} seed {seed} {words}")

    with ThreadPoolExecutor(asked.jobs) as pool:
        for _ in pool.map(one, pairs):
            pass
    _tell(table(counted(_read(asked.out))))
    return int(bool(bad))


def counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many pipelines and seeds were judged, and what was red how often."""
    latest = {(row["name"], row["seed"]): row for row in rows}
    red = [row for row in latest.values() if row["red"]]
    by_check = Counter((check, row["name"]) for row in red for check in row["red"])
    return {
        "pipelines": len({name for name, _ in latest}),
        "seeds": len({seed for _, seed in latest}),
        "judged": len(latest),
        "red": len(red),
        "by_check": [[check, name, count] for (check, name), count in by_check.most_common()],
    }


def table(counts: dict[str, Any]) -> str:
    """Return the observed rate of false reds with its interval, as Markdown."""
    judged, red = counts["judged"], counts["red"]
    low, high = interval(red, judged)
    lines = [
        "| healthy pipelines | seeds | judged | red | rate | 95 % interval |",
        "|---|---|---|---|---|---|",
        f"| {counts['pipelines']} | {counts['seeds']} | {judged} | {red} "
        f"| {red / max(judged, 1):.2%} | {low:.2%} to {high:.2%} |",
    ]
    if counts["by_check"]:
        lines += ["", "| check | pipeline | seeds that are red |", "|---|---|---|"]
        lines += [f"| {check} | {name} | {count} |" for check, name, count in counts["by_check"]]
    return "\n".join(lines)


def interval(red: int, judged: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate; its upper end is not 0 where nothing was red."""
    if not judged:
        return 0.0, 1.0
    share, square = red / judged, LEVEL**2
    middle = (share + square / (2 * judged)) / (1 + square / judged)
    spread = math.sqrt(share * (1 - share) / judged + square / (4 * judged**2))
    spread *= LEVEL / (1 + square / judged)
    return max(middle - spread, 0.0), min(middle + spread, 1.0)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open(encoding="utf-8")] if path.exists() else []


def _ignored() -> Any:
    import contextlib

    return contextlib.suppress(ImportError)


def _tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
