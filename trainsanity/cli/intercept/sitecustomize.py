"""Imported by every Python that a judged script or command starts; see ``trainsanity.sources``.

It waits until torch, transformers or accelerate is imported, and installs the intercept then.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
LIBRARIES = ("torch", "transformers", "accelerate")


def _chain():
    """Execute the ``sitecustomize`` that this one hides, if there is one."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


def _imported(name):
    """Import a module of trainsanity, which may lie where only the process before found it."""
    root = os.environ.get("TRAINSANITY_ROOT", ROOT)
    sys.path.append(root)
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[len(sys.path) - 1 - sys.path[::-1].index(root)]


class _Waiting:
    """A finder that learns what is imported."""

    installed = False

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if cls.installed or name not in LIBRARIES:
            return None
        cls.installed = True
        try:
            child = _imported("trainsanity.cli.child")
        except ImportError as error:
            _imported("trainsanity.sources.refusing").refuse(str(error))
        else:
            child.intercept()
        # New finders came before this one, and the import goes on with those after it.
        return importlib.util.find_spec(name)


def _travel():
    travelling = _imported("trainsanity.sources.travelling")
    travelling.die_with_owner()
    travelling.held = travelling.kept_in_environment()
    travelling.held.__enter__()


try:
    _chain()
finally:
    if "TRAINSANITY_HANDOVER" in os.environ:
        _travel()
        sys.meta_path.insert(0, _Waiting)
