"""Imported by every Python that a judged script or command starts; see ``trainsanity.sources``.

It waits until torch, transformers or accelerate is imported, and installs the intercept then.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
LIBRARIES = ("torch", "transformers", "accelerate")


def _chain() -> None:
    """Execute the ``sitecustomize`` that this one hides, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _imported(name: str) -> ModuleType:
    """Import a module of the trainsanity that waits for the verdict, whichever else is here."""
    if "trainsanity" not in sys.modules:
        folder = os.path.join(ROOT, "trainsanity")
        file = os.path.join(folder, "__init__.py")
        spec = importlib.util.spec_from_file_location(
            "trainsanity", file, submodule_search_locations=[folder]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} cannot be imported")
        package = sys.modules["trainsanity"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(name)


class _Waiting:
    """A finder that learns what is imported."""

    installed = False

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Install the intercept before the first of the libraries is imported."""
        if cls.installed or name not in LIBRARIES:
            return None
        cls.installed = True
        try:
            child = _imported("trainsanity.cli.child")
        except Exception as error:  # another environment, perhaps an older Python
            _imported("trainsanity.sources.refusing").refuse(str(error))
        else:
            child.intercept()
        # New finders came before this one, and the import goes on with those after it.
        return importlib.util.find_spec(name)


def _travel() -> None:
    travelling = _imported("trainsanity.sources.travelling")
    travelling.die_with_owner()
    travelling.keep_in_environment()


try:
    _chain()
finally:
    if "TRAINSANITY_HANDOVER" in os.environ:
        _travel()
        sys.meta_path.insert(0, _Waiting)
