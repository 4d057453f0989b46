"""How many mutants of `checks/` and `measurements/` the tests notice: `tox -e mutation`.

In a copy of the tree: the tests run once with coverage by test, cosmic-ray lists its mutants, a
sample of them is drawn and each is judged by the tests that run its line. A sample, since there are
thousands: told are the share that was noticed and the 95 % interval (Wilson's) for the share of
all. A mutant that no test runs, or that only tests beyond the time of `judge.py` would notice, has
survived. `--survivors` lists them. Of those some are the same program spelt otherwise: `same.toml`
names them with the reason, and the share is told without them, too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import coverage_map
import judge

SESSION = "session.sqlite"
SAME = Path(__file__).with_name("same.toml")

ROOT = Path(__file__).resolve().parents[2]

Z = 1.959964
"""97.5 % of a normal distribution lie below."""


def interval(killed: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, spread = killed / of, Z * Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return middle - half, middle + half


def copied(folder: Path) -> Path:
    """The tracked and new files of this tree, elsewhere."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tree = folder / "tree"
    tree.mkdir(parents=True)
    (tree / "begun").touch()
    for name in filter(None, listed.stdout.split("\0")):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return tree


def unharmed(tree: Path, socket: str) -> None:
    """Ask without a mutant.

    Raises:
        SystemExit: a test fails all the same, so that every mutant would be taken for noticed.
    """
    coverage = coverage_map.Coverage.read(tree / "coverage.json")
    quick = sorted(coverage.seconds, key=coverage.seconds.__getitem__)
    if code := judge.asked(socket, tree, quick[:: max(1, len(quick) // 20)]):
        raise SystemExit(f"without a mutant the tests end with {code}: see {tree / 'last.log'}")


def judge_sample(tree: Path, size: int, seed: int) -> None:
    """Draw the sample and have each of its mutants judged; what was judged before is left out."""
    cosmic_ray = [sys.executable, "-m", "cosmic_ray.cli"]
    config = "tests/mutation/cosmic-ray.toml"
    sample = [sys.executable, "tests/mutation/sample.py", SESSION]
    if not (tree / SESSION).exists():
        subprocess.run([*cosmic_ray, "init", config, SESSION], cwd=tree, check=True)
        subprocess.run([*sample, f"--size={size}", f"--seed={seed}"], cwd=tree, check=True)
    # A run that was stopped left its mutant where it was.
    for file, source in coverage_map.Coverage.read(tree / "coverage.json").sources.items():
        (tree / file).write_text(source, encoding="utf-8")
    socket = str(tree / "server")
    Path(socket).unlink(missing_ok=True)
    environment = {**os.environ, "TRAINSANITY_MUTATION_SERVER": socket}
    with subprocess.Popen([sys.executable, "tests/mutation/server.py", socket], cwd=tree) as server:
        try:
            while not Path(socket).exists() and server.poll() is None:
                time.sleep(0.2)
            unharmed(tree, socket)
            subprocess.run(
                [*cosmic_ray, "exec", config, SESSION], cwd=tree, check=True, env=environment
            )
        finally:
            server.kill()


def judged(tree: Path) -> list[dict[str, Any]]:
    """Each mutant that was judged, and whether it survived.

    cosmic-ray takes them in the order of their random ids, so part of a sample is a sample.
    """
    from cosmic_ray.work_db import use_db

    found = []
    with use_db(tree / SESSION) as db:
        for item, result in db.completed_work_items:
            if result.worker_outcome.name == "SKIPPED":
                continue
            if judge.BROKEN in result.output or result.test_outcome.name == "INCOMPETENT":
                raise SystemExit(f"a mutant could not be judged: {result.output}")
            (mutation,) = item.mutations
            found.append(
                {
                    "file": str(mutation.module_path),
                    "line": mutation.start_pos[0],
                    "operator": mutation.operator_name,
                    "survived": result.is_killed is False,
                    "diff": result.diff,
                }
            )
    return sorted(found, key=lambda mutant: (mutant["file"], mutant["line"]))


def lines(diff: str, sign: str) -> str:
    """The lines that a diff takes away or adds, without their margins."""
    found = [line[1:].strip() for line in diff.splitlines() if line.startswith(sign)]
    return "\n".join(line for line in found if line.strip(sign) and line[:3] != sign * 2 + " ")


def equivalent(mutants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that survived and are known to be the same program.

    Raises:
        SystemExit: one of them was noticed, so it is another program.
    """
    known = {
        (one["file"], one["was"], one["now"])
        for one in tomllib.loads(SAME.read_text(encoding="utf-8")).get("mutant", [])
    }
    same = [
        mutant
        for mutant in mutants
        if (mutant["file"], lines(mutant["diff"], "-"), lines(mutant["diff"], "+")) in known
    ]
    if wrong := [mutant for mutant in same if not mutant["survived"]]:
        raise SystemExit(f"{SAME.name} names a mutant that is noticed:\n{wrong[0]['diff']}")
    return same


def minutes(tree: Path) -> int:
    """From the copy of the tree to the last mutant that was judged."""
    begun, last = ((tree / name).stat().st_mtime for name in ("begun", "last.log"))
    return round((last - begun) / 60)


def population(tree: Path) -> int:
    """How many mutants there were to draw from."""
    return int((tree / "population").read_text(encoding="utf-8"))


def main() -> None:
    """Print the score; with --json write it, too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=200, help="mutants in the sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="work here, and go on where it was left")
    parser.add_argument(
        "--tell", action="store_true", help="only tell what has been judged in --folder so far"
    )
    parser.add_argument("--survivors", action="store_true", help="show what nothing noticed")
    parser.add_argument("tests", nargs="*", default=coverage_map.TESTS)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="trainsanity-mutation-"))
    tree = folder / "tree" if (folder / "tree").exists() else copied(folder)
    os.environ["PYTHONPATH"] = str(tree)
    if not (tree / "coverage.json").exists():
        coverage_map.measure(tree, list(options.tests)).write(tree / "coverage.json")
    if not options.tell:
        judge_sample(tree, options.size, options.seed)
    mutants = judged(tree)
    killed = sum(not mutant["survived"] for mutant in mutants)
    low, high = interval(killed, len(mutants))
    same = equivalent(mutants)
    others = len(mutants) - len(same)
    low_of_others, high_of_others = interval(killed, others)
    score = {
        "command": f"tox -e mutation -- --size {options.size} --seed {options.seed}",
        "killed": killed,
        "of": len(mutants),
        "drawn": options.size,
        "all": population(tree),
        "low": round(low, 4),
        "high": round(high, 4),
        "same": len(same),
        "low_of_others": round(low_of_others, 4),
        "high_of_others": round(high_of_others, 4),
        "seed": options.seed,
        "date": datetime.date.today().isoformat(),
        "minutes": minutes(tree),
        "cores": os.cpu_count(),
        "cosmic-ray": version("cosmic-ray"),
    }
    if options.survivors:
        for mutant in mutants:
            if mutant["survived"] and mutant not in same:
                print(mutant["diff"])  # noqa: T201
    print(  # noqa: T201
        f"{killed} of {len(mutants)} mutants noticed: {killed / len(mutants):.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}); without {len(same)} that are the same program "
        f"{killed / others:.1%} ({low_of_others:.1%} to {high_of_others:.1%})"
    )
    if options.json:
        options.json.write_text(json.dumps(score, indent=1) + "\n", encoding="utf-8")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
