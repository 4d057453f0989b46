"""Write the report and the count of the field in README.md; `--check` only compares.

The report is what the tool prints here and now, up to the first failure, and the stages.  Only its
words are compared: the last digits are the machine's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
INCIDENT = "fixtures.pipelines.tiny_qwen3:incident"


def report() -> str:
    """Return the incident's report as `trainsanity run` prints it, shortened.

    Raises:
        SystemExit: the run did not fail as the incident does.
    """
    command = [sys.executable, "-m", "trainsanity", "run", INCIDENT]
    done = subprocess.run(
        command,
        cwd=README.parent,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 1:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr}")
    verdict, failure, *_, last = done.stdout.strip().split("\n\n")
    stages, _, _ = last.partition("\nNot judged")
    shown = f"{verdict}\n\n{failure}\n\n{stages}"
    return f"```console\n$ trainsanity run {INCIDENT}\n{shown.rstrip()}\n```"


def fresh() -> str:
    """Return the first verdicts on the cases that were found last, in lines of README's width."""
    sys.path.insert(0, str(README.parent))
    import tables

    return textwrap.fill(tables.fresh(), 105)


BLOCKS = {"report:incident": report, "field:fresh": fresh}


def filled(text: str) -> str:
    """Return README's text with its blocks made anew.

    Raises:
        SystemExit: a block has not one place.
    """
    for name, made in BLOCKS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        block = f"{start}\n{made()}\n{end}"
        pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
        text, count = pattern.subn(lambda _, block=block: block, text)
        if count != 1:
            raise SystemExit(f"{README.name} has {count} blocks {start}")
    return text


def words(text: str) -> str:
    """Return ``text`` with the report's numbers masked and its lines joined."""
    start, end = (text.index(f"<!-- {sign}report:incident -->") for sign in ("", "/"))
    masked = re.sub(r"\d[\d.]*(e[+-]\d+)?", "#", text[start:end])
    return text[:start] + " ".join(masked.split()) + text[end:]


def main() -> None:
    """Write, or with --check compare."""
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" not in sys.argv:
        README.write_text(after, encoding="utf-8")
    elif words(before) != words(after):
        raise SystemExit(f"README.md is not what {Path(__file__).name} makes of it: run it")


if __name__ == "__main__":
    main()
