"""The oldest versions that are promised are those that tox tries, and but for torch .ci/run."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pinned(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))


def test_the_lower_bounds_of_the_package_are_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    assert "-r {tox_root}/.ci/lowest.txt" in tox["testenv:lowest"]["deps"]
    assert "-r .ci/lowest.txt" in (ROOT / ".ci" / "run").read_text()
    lowest = pinned((ROOT / ".ci" / "lowest.txt").read_text())
    for requirement in project["dependencies"]:
        name, bound = requirement.split(">=")
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", lowest[name]), requirement


def test_tox_tries_every_python_that_is_promised_and_tested() -> None:
    tox = (ROOT / "tox.ini").read_text()
    assert "py{311,312}" in tox
    assert "skip_missing_interpreters = true" in tox
