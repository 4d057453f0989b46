from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

from tests.field import records

pytestmark = pytest.mark.long

# What is on file names the cases, so that collecting imports neither torch nor trl.
ON_FILE = [
    (family, name, record)
    for family in records.families()
    for name, record in records.read("first", family).items()
]
CASES = [
    pytest.param(
        f"{family}:{name}",
        marks=[
            *([pytest.mark.distributed] if family.startswith("processes") else []),
            # One proof of each family here, all of them in `tox -e matrix`.
            *([pytest.mark.matrix] if number else []),
        ],
    )
    for family in records.families()
    for number, (name, record) in enumerate(records.read("first", family).items())
    if "fault" in record
]

UPSTREAM = re.compile(r"[\w.-]+/[\w.-]+#\d+|https://\S+")


@pytest.fixture(autouse=True)
def _upstream_packages() -> None:
    """The corpus is written for transformers 5, and imports trl and peft."""
    pytest.importorskip("transformers", minversion="5")
    if not all(find_spec(package) for package in ("trl", "peft")):
        pytest.skip("trl or peft is not installed")


@pytest.fixture
def corpus() -> dict[str, Any]:
    """All cases and healthy ones, by id."""
    return _corpus()


@cache
def _corpus() -> dict[str, Any]:
    import warnings

    from fixtures.field import cases, healthy_ones

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ones = [*cases(), *healthy_ones()]
    return {one.id: one for one in ones}


def test_every_id_is_there_once() -> None:
    times = Counter(name for _, name, _ in ON_FILE)
    assert [name for name, number in times.items() if number > 1] == []


def test_every_id_has_a_first_verdict(corpus: dict[str, Any]) -> None:
    on_file = {name: (family, "fault" in record) for family, name, record in ON_FILE}
    assert on_file == {one.id: (one.family, hasattr(one, "proofs")) for one in corpus.values()}


def _cases(corpus: dict[str, Any]) -> Iterator[Any]:
    return (one for one in corpus.values() if hasattr(one, "proofs"))


def test_every_case_was_reported_and_is_proven(corpus: dict[str, Any]) -> None:
    for one in _cases(corpus):
        assert UPSTREAM.fullmatch(one.upstream), one.id
        assert re.compile(one.words), one.id
        assert one.title.endswith("."), one.id
        assert one.proofs, one.id


def test_every_healthy_one_says_where_people_do_this(corpus: dict[str, Any]) -> None:
    for one in corpus.values():
        if not hasattr(one, "proofs"):
            assert one.source.strip(), one.id
            assert (one.make.__doc__ or "").strip(), one.id


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CASES)
def test_proofs_run(name: str) -> None:
    family, _, own = name.partition(":")
    from fixtures.field import cases

    one = next(case for case in cases(family) if case.id == own)
    if one.needs:
        from tests.field.__main__ import _possible

        if not _possible(one):
            pytest.skip(f"needs {one.needs}")
    if one.processes == 1:
        for proof in one.proofs:
            proof()
        return
    # Its processes are forked, from one that has no threads.
    subprocess.run(
        [sys.executable, "-m", "tests.field", "proofs", name],
        cwd=records.ROOT,
        env={**os.environ, "PYTHONPATH": str(records.ROOT)},
        check=True,
        timeout=300,
    )
