"""Write the report in README.md; `--check` only compares.

It is what the tool prints here and now, up to the first failure, and its last line.  Only the words
are compared: the last digits are the machine's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
INCIDENT = "fixtures.pipelines.tiny_qwen3:incident"
START, END = "<!-- report:incident -->", "<!-- /report:incident -->"


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


def filled(text: str) -> str:
    """Return README's text with the report made anew.

    Raises:
        SystemExit: it has not one place for it.
    """
    block = f"{START}\n{report()}\n{END}"
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    text, count = pattern.subn(lambda _: block, text)
    if count != 1:
        raise SystemExit(f"{README.name} has {count} blocks {START}")
    return text


def words(text: str) -> str:
    """Return ``text`` with the report's numbers masked and its lines joined."""
    start, end = text.index(START), text.index(END)
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
