"""Import what registers itself: the modules of a package, and the plug-ins of other packages."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil

from trainsanity.errors import UsageError, first_line


@functools.cache
def load_package(name: str) -> None:
    """Import every module of a package and of its subpackages, in the order of their names."""
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)


@functools.cache
def load_plugins(group: str) -> None:
    """Import what other installed packages have under this entry-point group.

    Raises:
        UsageError: one of them cannot be imported.
    """
    for entry in importlib.metadata.entry_points(group=group):
        try:
            entry.load()
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            # Left out in silence, its checks would be missing from a green run.
            package = entry.dist.name if entry.dist is not None else "an installed package"
            what = group.rpartition(".")[2]
            raise UsageError(
                f"the {what} of {package} ({entry.name} = {entry.value}) cannot be loaded: "
                f"{type(error).__name__}: {first_line(error)}; mend that package or uninstall it"
            ) from error
