"""The oldest versions that are promised are those that tox tries."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tox_tries_the_lower_bounds_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", tox["testenv:lowest"]["deps"], re.MULTILINE))
    for requirement in project["dependencies"]:
        name, bound = requirement.split(">=")
        assert re.fullmatch(rf"{re.escape(bound)}(\.0)*", pinned[name]), requirement


def test_tox_tries_every_python_that_is_promised_and_tested() -> None:
    tox = (ROOT / "tox.ini").read_text()
    assert "py{311,312}" in tox
    assert "skip_missing_interpreters = true" in tox
