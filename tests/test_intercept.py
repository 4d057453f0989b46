"""Methods of other people's classes are replaced for a while, also before they are imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainsanity.sources.patching import patched

SOURCE = """
class Base:
    def name(self): return "base"
    def inherited(self): return "base"

class Thing(Base):
    def name(self): return "thing"
"""


def marked(mark: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda original: lambda self: f"{mark}({original(self)})"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    (tmp_path / "patched_home.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "patched_home", raising=False)
    importlib.invalidate_caches()
    return "patched_home", "Thing"


@pytest.mark.parametrize("early", [True, False], ids=["imported before", "imported inside"])
def test_in_order_and_undone(home: tuple[str, str], early: bool) -> None:
    finders = list(sys.meta_path)
    if early:
        importlib.import_module(home[0])
    with (
        patched(home, {"name": marked("a"), "no_such_method": marked("a")}),
        patched(home, {"name": marked("b"), "inherited": marked("b")}),
    ):
        thing = importlib.import_module(home[0]).Thing
        assert thing().name() == "b(a(thing))"
        assert thing().inherited() == "b(base)"
    assert (thing().name(), thing().inherited()) == ("thing", "base")
    assert "inherited" not in vars(thing)
    assert not hasattr(thing, "no_such_method")
    assert sys.meta_path == finders


def test_a_module_that_is_never_imported(home: tuple[str, str]) -> None:
    finders = list(sys.meta_path)
    with patched(home, {"name": marked("a")}):
        assert home[0] not in sys.modules
    assert sys.meta_path == finders
    assert importlib.import_module(home[0]).Thing().name() == "thing"
