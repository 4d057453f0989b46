"""The documentation: every check has its page, links lead somewhere, code in it is code.

The sources of the site are written as `tox -e docs` writes them; where zensical is installed the
site is built, too, and a warning is an error.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml

from tests.reports import INCIDENT
from trainsanity.engine.registry import registry
from trainsanity.report.json import as_dict, schema
from trainsanity.report.links import SCHEMA, SITE, page_url
from trainsanity.report.pages import examples
from trainsanity.types import Check

ROOT = Path(__file__).parent.parent
CHECKS = registry().all()
SECTIONS = (
    "What it checks",
    "Why it matters",
    "How it is measured",
    "How to fix",
    "Known false alarms",
    "References",
)
LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the site's sources."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, ".ci/docs.py", "--pages", "--into", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def sources(built: Path) -> Iterator[Path]:
    return (built / "docs").rglob("*.md")


def source_of(built: Path, url: str) -> Path:
    """Return the file that the site shows under an address."""
    path = url.removeprefix(SITE)
    assert path != url, url
    plain = built / "docs" / path
    if plain.is_file():
        return plain
    return built / "docs" / (f"{path.rstrip('/')}.md" if path.strip("/") else "index.md")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.code)
def test_every_check_has_the_page_that_findings_link_to(built: Path, check: Check) -> None:
    url = page_url(check)
    assert url
    text = source_of(built, url).read_text(encoding="utf-8")
    assert text.count(f"\n# {check.code} `{check.name}`\n") == 1
    for section in SECTIONS:
        assert text.count(f"\n## {section}\n") == 1, section
    # A fault, its code, what is said of it, and its repair where the finding names one.
    example = examples()[check.code]
    assert example["text"] in text
    assert f"def {example['fault']}(" in text
    fixes = re.findall(r"^  fix       (.*)$", example["text"], re.MULTILINE)
    assert all(text.count(fix) >= 2 for fix in fixes)


def test_no_page_of_a_check_that_is_gone(built: Path) -> None:
    pages = {page.stem for page in (built / "docs" / "checks").glob("TS*.md")}
    assert pages == {check.code for check in CHECKS}


def test_links_of_all_pages_lead_to_a_file(built: Path) -> None:
    dead = []
    for page in sources(built):
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
            path = link.partition("#")[0]
            if not (page.parent / path).is_file():
                dead.append(f"{page.relative_to(built)}: {link}")
    assert dead == []


def test_addresses_of_the_site_have_a_page(built: Path) -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CHANGELOG.md")]
    texts += [file.read_text(encoding="utf-8") for file in (ROOT / "changelog.d").glob("*.md")]
    texts += [(built / "docs" / "llms.txt").read_text(encoding="utf-8")]
    urls = {url for text in texts for url in re.findall(rf"{re.escape(SITE)}[^\s)\"#]*", text)}
    assert len(urls) > len(CHECKS)
    for url in urls:
        path = source_of(built, url)
        assert path.is_file() or (path.with_suffix("") / "index.md").is_file(), url


def test_every_page_is_in_the_contents(built: Path) -> None:
    config = yaml.safe_load((built / "mkdocs.yml").read_text(encoding="utf-8"))

    def named(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for below in entry.values():
                yield from named(below)
        elif isinstance(entry, list):
            for below in entry:
                yield from named(below)

    listed = list(named(config["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == {str(p.relative_to(built / "docs")) for p in sources(built)}


def test_generated_tables_are_in_their_places(built: Path) -> None:
    evidence = (built / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert "<!--" not in evidence
    for column in ("false alarms", "twins green", "mutants of", "limit", "peak GiB", "verdicts"):
        assert column in evidence
    index = (built / "docs" / "checks" / "index.md").read_text(encoding="utf-8")
    assert index.count("\n| [TS") == len(CHECKS)


def test_the_address_is_one() -> None:
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert f"site_url: {SITE}\n" in config
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["urls"]["Documentation"] == SITE


def test_the_schema_is_published_under_its_id(built: Path) -> None:
    assert schema()["$id"] == SCHEMA
    published = json.loads(source_of(built, SCHEMA).read_text(encoding="utf-8"))
    assert published == schema()
    jsonschema.validate(as_dict(INCIDENT), published)


def blocks(kind: str) -> list[object]:
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        pytest.param(found[2], id=f"{file.stem}{number}")
        for file in files
        for number, found in enumerate(FENCE.finditer(file.read_text(encoding="utf-8")))
        if found[1] == kind
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_is_python(code: str) -> None:
    ast.parse(code)


def examples_of(page: str) -> list[str]:
    text = (ROOT / "docs" / "guides" / page).read_text(encoding="utf-8")
    return [code for kind, code in FENCE.findall(text) if kind == "python"]


def test_the_check_of_the_guide_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry()
    monkeypatch.setattr(known, "_checks", dict(known._checks))
    space: dict[str, Any] = {}
    exec(examples_of("writing-checks.md")[0], space)
    check = known.get("ACME001")
    assert check.inputs == ("pipeline", "batch")
    micro = [SimpleNamespace(inputs={"labels": [1, 1]}), SimpleNamespace(inputs={"labels": [1]})]
    finding, measured = check.fn(None, micro)
    assert (finding.observed, measured.observed) == (1, 1)
    micro[1].inputs["labels"] = [2]
    (measured,) = check.fn(None, micro)
    assert measured.message == "2 classes in the first step"


def test_the_objective_of_the_guide_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from trainsanity.objectives import registry as objectives

    monkeypatch.setattr(objectives, "_objectives", dict(objectives._objectives))
    space: dict[str, Any] = {"__name__": "acme"}
    monkeypatch.setitem(sys.modules, "acme", ModuleType("acme"))
    exec(examples_of("writing-checks.md")[2], space)
    z, y = torch.tensor([[0.3], [1.0]]).double(), torch.tensor([2.0, 0.0]).double()
    own = objectives._objectives["poisson"]().item_losses(z, y)
    right = torch.nn.functional.poisson_nll_loss(z.squeeze(-1), y, reduction="none")
    assert torch.allclose(own, right)


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_are_toml_with_keys_that_exist(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainsanity.sources.config import configuration

    parsed = tomllib.loads(text)
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert bool(configuration()) is bool(parsed.get("tool", {}).get("trainsanity"))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_is_yaml(text: str) -> None:
    assert yaml.safe_load(text)


def test_options_that_are_named_exist(built: Path) -> None:
    from click.testing import CliRunner

    from trainsanity.cli.main import program

    called = set()
    for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for line in re.findall(
            r"trainsanity (run|show|diagnose|explain) ([^\n`]*)", file.read_text()
        ):
            own = re.split(r"\s--\s|\s#", f"{line[1]} ")[0]
            called |= {(line[0], option) for option in re.findall(r"(?<!\S)(--[a-z-]+)", own)}
    assert len(called) > 5
    for command, option in sorted(called):
        assert option in CliRunner().invoke(program, [command, "--help"]).output, (command, option)
