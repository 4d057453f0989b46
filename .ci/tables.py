"""Tables of recorded results, as Markdown, for the documentation: `python .ci/tables.py NAME`.

The scores come from .ci/score.json and .ci/mutation.json, which `tox -e score` and
`tox -e mutation` write; the field's verdicts from fixtures/field, which `tox -e field` writes; the
kinds of pipelines from tests/coverage; the GPU figures from .ci/measured.jsonl, which
`pytest -m gpu -n0` writes where there is a GPU and TRAINSANITY_RECORD names it; the benchmarks'
from .ci/benchmarks.json, which is what `python tests/benchmarks/run.py --json` wrote; what test
modules cost from .ci/durations.json, which `pytest -p tests.durations` writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def checks() -> str:
    """Return one row for each check, with a link to its page."""
    from trainsanity.engine.registry import registry

    rows = [
        f"| [{c.code}]({c.code}.md) | `{c.name}` | {c.title.replace('``', '`').rstrip('.')} |"
        for c in registry().all()
    ]
    return "\n".join(["| code | name | what holds |", "|---|---|---|", *rows])


def measurements() -> str:
    """Return each measurement with its cost, what it is made from, and the checks that share it."""
    from trainsanity.engine.registry import registry
    from trainsanity.engine.store import catalogue
    from trainsanity.types import Cost

    checks, known = registry().all(), catalogue()
    lines = ["| measurement | what is done | cost | from | checks |", "|---|---|---|---|---|"]
    for name, one in sorted(known.items(), key=lambda item: (item[1].cost, item[0])):
        asked = [c for c in checks if name in c.inputs]
        links = ", ".join(f"[{c.code}](../checks/{c.code}.md)" for c in asked)
        made = ", ".join(f"`{other}`" for other in one.inputs if other in known)
        title = one.title.replace("|", "\\|")
        cost = Cost(one.cost).name
        lines.append(f"| `{name}` | {title} | {cost} | {made} | {links or 'on demand'} |")
    return "\n".join(lines)


def measured() -> str:
    """The GPU runs as recorded."""
    recorded = [json.loads(line) for line in (HERE / "measured.jsonl").read_text().splitlines()]
    runs = [run for run in recorded if not run.keys() & {"probes", "processes", "kind"}]
    first = runs[0]
    versions = ", ".join(f"{name} {first[name]}" for name in ("torch", "transformers", "datasets"))
    lines = [
        f"`pytest -m gpu -n0` on one {first['device']}, Python {first['python']}, {versions}; "
        f"{first.get('date', 'no date')}. "
        "Seconds are wall-clock for building the pipeline and judging it with every check but the "
        "runs.",
        "",
        "| pipeline | failed | factor | weights that move at 1e-5 | ran | seconds | peak GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        failed = ", ".join(f"`{name}`" for name in run["failed"]) or "none"
        failed += "".join(f"; accepted `{name}`" for name in run["accepted"])
        moved = "; ".join(
            f"{dtype} {share['moved']:.1%}"
            for shares in run["moved"].values()
            for dtype, share in shares.items()
        )
        factor = f"{run['factor']:.2f}" if run["factor"] else ""
        lines.append(
            f"| `{run['pipeline']}` | {failed} | {factor} | {moved} | {run['ran']} of {run['of']} "
            f"| {run['seconds']} | {run['peak_gib']} |"
        )
    lines += ["", *(f"- {note}" for note in dict.fromkeys(n for r in runs for n in r["notes"]))]
    lines += [*taken(first), *probed([run for run in recorded if "probes" in run])]
    lines += language([run for run in recorded if run.get("kind") == "language"])
    lines += under_seeds([run for run in recorded if run.get("kind") == "seeds"])
    return "\n".join([*lines, *shared([run for run in recorded if "processes" in run])])


RATIO = 30
"""All checks up to STEP take at most so many times one forward + backward of the same batch."""


def taken(run: dict[str, Any]) -> list[str]:
    """Where a run's time and memory went, measurement by measurement."""
    if "batch" not in run:
        return []
    batch, rows = run["batch"], run["measurements"]
    looks = sum(row["seconds"] for row in rows)
    named = {"forwards": "forwards", "backwards": "backwards", "optimizer_steps": "steps"}

    def row(name: str, seconds: float, peak: str, counts: dict[str, int]) -> str:
        cells = [str(counts.get(key) or "") for key in named]
        times = f"{seconds / batch['seconds']:.2f}"
        return f"| {name} | {seconds:.1f} | {times} | {' | '.join(cells)} | {peak} |"

    return [
        "",
        f"Where they go on `{run['pipeline']}`: one forward + backward of the same batch, "
        f"{batch['micro_batches']} micro-batches of {batch['rows']} rows, takes "
        f"{batch['seconds']:.1f} s; all checks together {run['judging_seconds']} s, "
        f"{run['judging_seconds'] / batch['seconds']:.1f} times that ({RATIO} are allowed).",
        "",
        "| look | seconds | times forward + backward | " + " | ".join(named.values())
        + " | peak GiB |",
        f"|---|---|---|{'---|' * len(named)}---|",
        *(
            row(f"`{one['name']}`", one["seconds"], _gib(one["peak_bytes"]), one)
            for one in sorted(rows, key=lambda one: -one["seconds"])
            if one["seconds"] >= 0.05
        ),
        row("the checks themselves", max(run["judging_seconds"] - looks, 0.0), "", {}),
        row("building the pipeline", max(run["seconds"] - run["judging_seconds"], 0.0), "", {}),
    ]  # fmt: skip


PROBES = {
    "another last token": ("another_last_token", "logits_allowed"),
    "64 more columns": ("wider", "logits_allowed"),
    "ids under mask 0": ("refilled", "states_allowed"),
    "mask of ones": ("unmasked", "states_allowed"),
}
"""By column: what was measured, and what the measured floor of arithmetic allows."""


def probed(runs: list[dict[str, Any]]) -> list[str]:
    """The model's own checks in bf16: each effect beside its floor."""
    if not runs:
        return []
    lines = [
        "",
        "The model asked in other ways, in bf16: each change of the logits or states, and in",
        "brackets what the noise measured in the same run allows.",
        "",
        f"| pipeline | failed | {' | '.join(PROBES)} | seconds | peak GiB |",
        f"|---|---|{'---|' * len(PROBES)}---|---|",
    ]
    for run in runs:
        seen = run["probes"]
        cells = [
            "not asked" if isinstance(seen, str) else f"{seen[name]:.2g} ({seen[floor]:.2g})"
            for name, floor in PROBES.values()
        ]
        failed = ", ".join(f"`{name}`" for name in run["failed"]) or "none"
        lines.append(
            f"| `{run['pipeline']}` | {failed} | {' | '.join(cells)} | {run['seconds']} "
            f"| {run['peak_gib']} |"
        )
    return lines


def language(runs: list[dict[str, Any]]) -> list[str]:
    """Supervised, preferred and rewarded fine-tuning at full size, on one GPU each."""
    if not runs:
        return []
    lines = [
        "",
        "Language models at full-size Qwen3-4B geometry with LoRA, up to the cost of a step "
        "(`pytest -m gpu -n0 tests/pipelines/test_language_full_size.py`, "
        f"{runs[0]['device']}, {_versions(runs)}). "
        "The law of weights asks each micro-batch of the first step once more; its seconds stand "
        "beside those of the step.",
        "",
        "| pipeline | failed | factors | ran | seconds | peak GiB | step | law | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        failed = ", ".join(f"`{name}`" for name in run["FAIL"]) or "none"
        factors = ", ".join(f"{one:.3f}" for name in run["FAIL"] for one in run["factors"][name])
        share = run["law_seconds"] / run["step_seconds"]
        lines.append(
            f"| {run['pipeline']} | {failed} | {factors} | {run['ran']} of {run['of']} "
            f"| {run['seconds']} | {run['peak_gib']} | {run['step_seconds']:.1f} "
            f"| {run['law_seconds']:.1f} | {share:.2f} |"
        )
    notes = dict.fromkeys((note, run["pipeline"]) for run in runs for note in run["notes"])
    for note in dict.fromkeys(note for note, _ in notes):
        lines += ["", f"- {', '.join(name for said, name in notes if said == note)}: {note}"]
    return lines


def under_seeds(runs: list[dict[str, Any]]) -> list[str]:
    """The repaired incident's model stage under other seeds and sizes of batches."""
    if not runs:
        return []
    red = [run for run in runs if run["fail"] or run["error"] or run["warning"]]
    seconds = sorted(run["seconds"] for run in runs)
    return [
        "",
        f"The model stage of the repaired incident at full size in bf16 under {len(runs)} other "
        "seeds and sizes of batches (`python -m tests.measure_seeds`, "
        f"{runs[0]['device']}): {len(red)} with a failure, a warning or an error; "
        f"{seconds[0]} to {seconds[-1]} seconds each, with the building, beside 25 other "
        "processes; "
        f"at most {max(run['peak_gib'] for run in runs)} GiB.",
    ]


def shared(runs: list[dict[str, Any]]) -> list[str]:
    """Several processes with a GPU each; healthy, and with a loss multiplied by their number."""
    full = [run for run in runs if "whole_process_seconds" in run]
    runs = [run for run in runs if run not in full]
    if not runs:
        return full_size(full)
    return [
        "",
        f"{runs[0]['processes']} processes with a GPU each, over NCCL "
        "(`pytest -m gpu -n0 tests/test_processes_gpu.py`), on the tiny model.",
        "",
        "| pipeline | failed | factor | ran | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| `{run['pipeline']}` | {', '.join(f'`{name}`' for name in run['failed']) or 'none'} "
            f"| {format(run['factor'], '.2f') if run['factor'] else ''} "
            f"| {run['ran']} of {run['of']} | {run['seconds']} |"
            for run in runs
        ),
        *full_size(full),
    ]


def full_size(runs: list[dict[str, Any]]) -> list[str]:
    """The incident at full size by each engine that shards."""
    if not runs:
        return []
    return [
        "",
        "The incident at full size in several processes with a GPU each (`python -m "
        f"tests.measure_processes`, {runs[0]['device']}, {_versions(runs)}). "
        "Seconds are those of the whole process, and of judging; peaks those of one GPU, over all, "
        "and while the steps were recorded.",
        "",
        "| pipeline | processes | failed | factor | ran | seconds | judging | peak GiB | steps |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {run['pipeline']} | {run['processes']} "
            f"| {', '.join(f'`{name}`' for name in run['failed']) or 'none'} "
            f"| {format(run['factor'], '.2f') if run['factor'] else ''} "
            f"| {run['ran']} of {run['of']} | {run['whole_process_seconds']} | {run['seconds']} "
            f"| {run['peak_gib']} | {run['peak_of_the_step_gib']} |"
            for run in runs
        ),
        "",
        *(f"- {note}" for note in dict.fromkeys(n for run in runs for n in run["notes"])),
    ]


def _versions(runs: list[dict[str, Any]]) -> str:
    """Return those of torch and transformers, each once."""
    found = {name: sorted({run[name] for run in runs}) for name in ("torch", "transformers")}
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())


def _gib(size: int | None) -> str:
    """Nothing where the device was not asked."""
    return "" if size is None else f"{size / 2**30:.1f}"


def benchmarks() -> str:
    """The figures that the benchmarks wrote, saved as .ci/benchmarks.json."""
    from tests.benchmarks.run import COMMAND, table

    document = json.loads((HERE / "benchmarks.json").read_text(encoding="utf-8"))
    where = document["where"]
    said = (
        f"`{COMMAND}` on {where['cores']} cores, Python {where['python']}, nothing else running; "
        f"{where.get('date', 'no date')}"
        + "".join(f", `{name}` {date}" for name, date in where.get("later", {}).items())
        + "."
    )
    return f"{said}\n\n{table(document['figures'])}"


def score() -> str:
    """What trainsanity and its peers say of the same faults and controls, as recorded."""
    from tests.score import table

    return table.markdown(json.loads(table.DOCUMENT.read_text(encoding="utf-8")))


def mutation() -> str:
    """The share of the mutants that were noticed, as recorded."""
    told = json.loads((HERE / "mutation.json").read_text(encoding="utf-8"))
    others = told["of"] - told["same"]
    return (
        f"`{told['command']}` ({told.get('date', 'no date')}): {told['killed']} of {told['of']} "
        f"mutants of `checks/` and `measurements/` are noticed, {told['killed'] / told['of']:.1%} "
        f"(95 % interval {told['low']:.1%} to {told['high']:.1%}), a sample of "
        f"{told['all']:,} that cosmic-ray "
        f"{told['cosmic-ray']} makes. {told['same']} of the rest are the same program spelt "
        "otherwise (`tests/mutation/same.toml` says why, one by one); of those that are not, "
        f"{told['killed']} of {others} are noticed, {told['killed'] / others:.1%} "
        f"({told['low_of_others']:.1%} to {told['high_of_others']:.1%}). {told['minutes']} minutes "
        f"on {told['cores']} cores, in which that many of the {told['drawn']} drawn were judged."
    )


def field() -> str:
    """Return the verdicts on the field's cases: the first ones beside today's."""
    from tests.field import records

    stamps: dict[str, list[dict[str, Any]]] = {}
    for column in records.FOLDERS:
        for family in records.families():
            stamps.setdefault(column, []).extend(records.read(column, family).values())
    days = {
        column: (min(one["date"] for one in found), max(one["date"] for one in found))
        for column, found in stamps.items()
    }
    versions = max(stamps["today"], key=lambda one: one["date"])["versions"]
    said = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return (
        f"`tox -e field`; first verdicts from {days['first'][0]} to {days['first'][1]}, today's "
        f"from {days['today'][0]} to {days['today'][1]} ({said}).\n\n{records.table()}"
    )


def fresh() -> str:
    """Return the first verdicts on the cases that were found last, in a sentence."""
    from tests.field import records

    found = [
        one
        for family in records.families()
        if family.startswith("fresh")
        for one in records.read("first", family).values()
    ]
    faults = [one for one in found if "fault" in one]
    healthy = [one for one in found if "healthy" in one]
    green = sum(one["healthy"]["exit"] == 0 for one in healthy)
    twins = sum(one["twin_green"] for one in faults)
    return (
        f"Judged once, before anything was done about them ({max(one['date'] for one in found)}): "
        f"{sum(one['caught'] for one in faults)} of {len(faults)} fresh errors that people "
        f"reported are caught, {sum(one['named'] for one in faults)} of them by name; {twins} of "
        f"{len(faults)} repaired twins and {green} of {len(healthy)} healthy pipelines that look "
        "odd are green."
    )


def proofs() -> str:
    """Return which causes are proved by their repair, and which are not."""
    from tests import proofs

    return f"`python -m tests.proofs`. {proofs.table(proofs.read())}"


def seeds() -> str:
    """Return how often a healthy pipeline was red under other seeds."""
    from tests import seeds

    told = json.loads(seeds.RECORD.read_text(encoding="utf-8"))
    return f"`python -m tests.seeds`, {told['date']}. {told['note']}\n\n{seeds.table(told)}"


def coverage() -> str:
    """Return how many checks reach a verdict on each kind of pipeline."""
    from tests.coverage import table

    whole = table.read()
    said = ", ".join(f"{name} {version}" for name, version in whole["versions"].items())
    of = len(whole["first_catalogue"])
    lines = [
        f"`python -m tests.coverage` ({said}).",
        "",
        f"| kind | verdicts | of the first {of} checks |",
        "|---|---:|---:|",
        *(f"| {name} | {row['all']} | {row['first_catalogue']} |"
          for name, row in whole["kinds"].items()),
    ]  # fmt: skip
    return "\n".join(lines)


SHORT = 5.0
"""Seconds of a test module that has a row of its own."""


def durations() -> str:
    """Return what the test modules cost, the longest first, beside what they did before."""
    known = json.loads((HERE / "durations.json").read_text(encoding="utf-8"))

    def cost(told: dict[str, Any]) -> float:
        return float(told.get("seconds", told.get("before", 0.0)))

    def row(name: str, some: list[dict[str, Any]]) -> str:
        sums = [
            f"{sum(told.get(key, 0) for told in some):.0f}"
            if any(key in told for told in some)
            else ""
            for key in ("tests", "before", "seconds")
        ]
        return f"| {name} | {' | '.join(sums)} |"

    ordered = sorted(known.items(), key=lambda item: -cost(item[1]))
    long = [(module, told) for module, told in ordered if cost(told) >= SHORT]
    rest = [told for _, told in ordered if cost(told) < SHORT]
    return "\n".join(
        [
            "| module | tests | before | seconds |",
            "|---|---:|---:|---:|",
            *(row(f"`{module}`", [told]) for module, told in long),
            row(f"{len(rest)} others", rest),
        ]
    )


BLOCKS = {
    "checks": checks,
    "score": score,
    "field": field,
    "fresh": fresh,
    "proofs": proofs,
    "seeds": seeds,
    "coverage": coverage,
    "mutation": mutation,
    "benchmarks": benchmarks,
    "durations": durations,
    "measured": measured,
    "measurements": measurements,
}


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    print("\n\n".join(BLOCKS[name]() for name in sys.argv[1:] or BLOCKS))  # noqa: T201
