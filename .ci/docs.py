"""Build the documentation: `python .ci/docs.py`, or `tox -e docs`; `--pages` builds no site.

The pages of the checks come from their docstrings, with a real failure, the fault's code and the
repair; the tables from what was recorded (`.ci/tables.py`); the contributing guide, the changelog
and the schema from their files.  All of it is written below build/docs and nothing of it is
committed.  Zensical, which succeeds Material for MkDocs, builds the site and takes warnings for
errors: a link or an anchor that leads nowhere is one.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fixtures.faults import Fault
    from trainsanity.types import Check

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build"
BLOCK = re.compile(r"<!-- (\w+) -->")
NAV = "      # the pages of the checks\n"
REPOSITORY_FILES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files that GitHub shows, and where the site has them."""


def check_page(check: Check, fault: Fault | None) -> str:
    """Return a check's page."""
    from trainsanity.report.pages import examples, sections

    lines = [f"---\ntitle: {check.code} {check.name}\n---\n", f"# {check.code} `{check.name}`\n"]
    for label, text in sections(check):
        lines += [f"## {label}\n"] if label else []
        # Snippets and continuations belong to the section above them.
        lines += [f"{text[0].upper()}{text[1:]}\n" if label else f"{text}\n"]
    example = examples().get(check.code)
    if example and fault:
        lines += _example(check, fault, example["text"])
    return "\n".join(lines)


def _example(check: Check, fault: Fault, text: str) -> Iterator[str]:
    """Yield the fault that the check is tested by, its failure, and the repair that it names."""
    from trainsanity.report.pages import linked

    warns = check.name not in fault.caught_by
    yield "## A fault that it warns of\n" if warns else "## A fault that it catches\n"
    read = fault.upstream.startswith("read: ")
    upstream = linked(fault.upstream.removeprefix("read: "))
    yield f"{linked(fault.title)} {'Read in a source' if read else 'Reported'}: {upstream}.\n"
    yield f"Wrong, as a change to a healthy Trainer:\n\n```python\n{_code(fault)}\n```\n"
    yield f"The report:\n\n```text\n{text}\n```\n"
    fixes = dict.fromkeys(re.findall(r"^  fix       (.*)$", text, re.MULTILINE))
    if fixes:
        shown = "\n".join(fixes)
        yield "Right, as the finding says; the Trainer without the change passes:\n"
        yield f"```text\n{shown}\n```\n"


def _code(fault: Fault) -> str:
    """Return a fault's function without its decorator and docstring."""
    source = textwrap.dedent(inspect.getsource(fault.break_))
    source = source[source.index("\ndef ") + 1 :] if source.startswith("@") else source
    return re.sub(r'\n\s+""".*?"""', "", source, count=1, flags=re.DOTALL).rstrip()


def pages(target: Path) -> None:
    """Write the sources of the site below ``target``, and its configuration beside them."""
    import tables

    from fixtures.faults import all_faults
    from trainsanity.engine.registry import registry
    from trainsanity.report import json as report_json
    from trainsanity.report.links import SCHEMA, SITE
    from trainsanity.report.pages import examples
    from trainsanity.types import STAGES

    docs = target / "docs"
    shutil.rmtree(docs, ignore_errors=True)
    shutil.copytree(ROOT / "docs", docs)
    for page in docs.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(BLOCK.sub(lambda block: tables.BLOCKS[block[1]](), text), encoding="utf-8")
    faults = {fault.id: fault for fault in all_faults()}
    known = examples()
    checks = registry().all()
    for check in checks:
        fault = faults.get(known[check.code]["fault"]) if check.code in known else None
        (docs / "checks" / f"{check.code}.md").write_text(
            check_page(check, fault), encoding="utf-8"
        )
    for source, name in REPOSITORY_FILES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = text.replace("<!-- towncrier -->", unreleased())
        (docs / name).write_text(_on_site(text), encoding="utf-8")
    schema = docs / SCHEMA.removeprefix(SITE)
    schema.parent.mkdir(exist_ok=True)
    schema.write_text(report_json.encode(report_json.schema()), encoding="utf-8")
    nav = "".join(
        f"      - {stage.capitalize()}:\n"
        + "".join(
            f"          - {check.code} {check.name.partition('.')[2]}: checks/{check.code}.md\n"
            for check in checks
            if check.stage == stage
        )
        for stage in STAGES
    )
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert NAV in config
    (target / "mkdocs.yml").write_text(config.replace(NAV, nav), encoding="utf-8")
    (docs / "llms.txt").write_text(llms(docs, config, SITE), encoding="utf-8")


def unreleased() -> str:
    """Return the changes that no release has yet, as towncrier will write them."""
    lines = ["## Not released yet"]
    for kind in ("added", "changed", "fixed"):
        fragments = sorted((ROOT / "changelog.d").glob(f"*.{kind}.md"))
        lines += [f"### {kind.capitalize()}"] if fragments else []
        told = [fragment.read_text(encoding="utf-8").strip() for fragment in fragments]
        lines += ["\n".join(f"- {text}" for text in told)] if told else []
    return "\n\n".join(lines)


def _on_site(text: str) -> str:
    """Return a file of the repository with its links into docs/ as the site has them."""
    text = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)
    # What only the repository has is named and not linked.
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]*(?<!\.md)\)|\[([^\]]+)\]\([A-Z]+\.md\)",
                  lambda link: f"`{link[1] or link[2]}`".replace("``", "`"), text)  # fmt: skip


def llms(docs: Path, config: str, site: str) -> str:
    """Return llms.txt: what this is, and each page of the guides with its first sentence."""
    home = (docs / "index.md").read_text(encoding="utf-8").split("\n\n")
    lines = [home[0], "", f"> {home[1]}", "", " ".join(home[2].split()), "", "## Pages", ""]
    for name in re.findall(r"- (?:\w+: )?([\w/-]+\.md)$", config, re.MULTILINE):
        text = (docs / name).read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        assert title, name
        url = re.sub(r"(index)?\.md$", "", name)
        address = f"{site}{url}{'/' if url and not url.endswith('/') else ''}"
        lines.append(f"- [{title[1]}]({address})")
    lines += ["", "## Checks", ""]
    from trainsanity.engine.registry import registry
    from trainsanity.report.links import page_url

    lines += [
        f"- [{check.code} {check.name}]({page_url(check)}): {check.title.replace('``', '`')}"
        for check in registry().all()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the sources; build the site unless told otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pages", action="store_true", help="write the sources and build nothing")
    parser.add_argument("--into", type=Path, default=BUILD, metavar="FOLDER")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    pages(options.into)
    if options.pages:
        return 0
    shutil.rmtree(options.into / "site", ignore_errors=True)
    command = [shutil.which("zensical") or "zensical", "build", "--strict", "--clean"]
    return subprocess.run(
        [*command, "--config-file", str(options.into / "mkdocs.yml")], check=False
    ).returncode


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(ROOT)]
    sys.exit(main())
