"""Whose code a module is: the user's own, or a package that pip put somewhere."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from trainsanity.isolation.reachable import is_own


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of a package in a folder on PYTHONPATH."""
    name = f"made_up_{tmp_path.name}"
    file = tmp_path / name / "models.py"
    file.parent.mkdir()
    monkeypatch.setitem(sys.modules, f"{name}.models", SimpleNamespace(__file__=str(file)))
    return f"{name}.models", tmp_path


def test_a_folder_on_the_path_is_the_users(module):
    name, folder = module
    (folder / "another-1.0.dist-info").mkdir()
    assert is_own(name)


def test_what_pip_put_there_is_not(module):
    """``pip install --target``: a walk through all of transformers takes seconds each time."""
    name, folder = module
    (folder / f"{name.partition('.')[0]}-1.0.dist-info").mkdir()
    assert not is_own(name)
