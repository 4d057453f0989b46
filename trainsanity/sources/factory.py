"""Find the factory or script that a command line names."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainsanity.errors import UsageError
from trainsanity.pipeline import Pipeline
from trainsanity.sources.building import PipelineSpec
from trainsanity.sources.config import failures_of, is_target, split
from trainsanity.sources.raised import place_of
from trainsanity.sources.returning import refuse_without_result
from trainsanity.sources.script import Script

T = TypeVar("T")


class Source(Protocol):
    """Something that can be judged: its pipeline exists during the visit."""

    @property
    def id(self) -> str:
        """The name in reports."""

    @property
    def expected_failures(self) -> Mapping[str, str]:
        """Check name to the reason why its failure is accepted here."""

    def visit(self, judge: Callable[[Pipeline], T], /) -> T:
        """Build the pipeline, return what ``judge`` returns for it, and clean up."""


def sources_of(
    targets: Sequence[str],
    arguments: Sequence[str],
    expected_failures: Mapping[str, Any],
    declared: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> list[Source]:
    """Return the sources that a command line names; nothing is built, and no script is run.

    Args:
        targets: ``pkg.module:factory``, any number of them, or one script; each may have arguments
            of its own, as in ``"train.py -- --lr 1e-5"``.
        arguments: what follows ``--`` on the command line; every target gets it after its own.
        expected_failures: as :func:`trainsanity.sources.config.configuration` returns them.
        declared: as in :class:`PipelineSpec`.
        timeout: seconds that a factory may take; None for no limit.

    Raises:
        UsageError: a target is of neither form, or they do not go together.
    """
    scripts = [target for target in targets if _is_script(split(target)[0])]
    if not scripts:
        return [
            spec_of(target, expected_failures, declared, arguments=arguments, timeout=timeout)
            for target in targets
        ]
    script = scripts[0]
    path, own = split(script)
    others = [target for target in targets if target != script]
    if len(targets) > 1:
        alone = f"a script is judged alone, without {' '.join(others) or 'a second run of it'}; "
        if any(map(is_target, others)):
            raise UsageError(f"{alone}give each to trainsanity run in a call of its own")
        raise UsageError(
            f"{alone}its own arguments go after --: trainsanity run {path} -- "
            f"{' '.join(others) or 'ARGS'}"
        )
    if not Path(path).exists():
        raise UsageError(f"there is no file {path!r} below {os.getcwd()}{_nearly(path)}")
    expected = failures_of(expected_failures, script, path)
    return [Script(path, (*own, *arguments), expected, declared or {}, name=script)]


def _is_script(target: str) -> bool:
    """Return whether a target is a script's path: any existing file, or a name in .py."""
    return target.endswith(".py") or (":" not in target and Path(target).is_file())


def spec_of(
    target: str,
    expected_failures: Mapping[str, Any] | None = None,
    declared: Mapping[str, str] | None = None,
    *,
    arguments: Sequence[str] = (),
    timeout: float | None = None,
) -> PipelineSpec:
    """Return the spec for ``pkg.module:factory``; its module is imported when it is built.

    Args:
        target: with or without arguments of its own: ``"pkg.module:factory -- --lr 1e-5"``.
        expected_failures: as :func:`trainsanity.sources.config.configuration` returns them.
        declared: as in :class:`PipelineSpec`.
        arguments: what ``sys.argv`` has after its own, while the function builds.
        timeout: seconds that the function may take; None for no limit.

    Raises:
        UsageError: the target is not of that form.
    """
    name, own = split(target)
    module, colon, factory = name.partition(":")
    if module.endswith(".py"):
        raise UsageError(
            f"{target!r} is a script: `trainsanity run {module}` judges it as it is; "
            f"{_as_module(module, factory)}"
        )
    if not (module and colon and factory):
        file = Path(f"{name.replace('.', os.sep)}.py")
        nearly = ""
        if not colon and file.is_file():
            nearly = f"; trainsanity run {file} judges that file as a script"
        raise UsageError(
            f"{target!r} names no pipeline: give pkg.module:factory, a function that takes "
            f"nothing and returns a Trainer{nearly}"
        )

    def build() -> Any:
        # Imported only when the pipeline is built, so that collecting tests stays cheap.
        vars(build)["__wrapped__"] = found = _factory(module, factory)
        refuse_without_result(target, found, (*own, *arguments))
        return found()

    return PipelineSpec(
        target,
        build,
        expected_failures=failures_of(expected_failures, target, name),
        command=(name, *own, *arguments),
        declared=declared or {},
        timeout=timeout,
    )


def _as_module(file: str, factory: str) -> str:
    """Return how a function of a file is given; where there is no such module, what one needs."""
    parts = Path(os.path.normpath(file)).with_suffix("").parts
    if factory and Path(file).is_file() and all(part.isidentifier() for part in parts):
        return f"`trainsanity run {'.'.join(parts)}:{factory}` calls its function"
    return "or put what builds the Trainer into a function and give pkg.module:function"


def _nearly(path: str) -> str:
    """Return the scripts beside a path that does not exist whose names are nearly its own."""
    folder = Path(path).parent
    try:
        names = [one.name for one in folder.glob("*.py")]
    except OSError:
        return ""
    close = difflib.get_close_matches(Path(path).name, names, 1)
    return f"; did you mean {os.path.join(os.path.dirname(path), close[0])!r}?" if close else ""


def _factory(module: str, factory: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {module!r} below {here} or in this environment; "
                "run from the project's root, or install it"
            ) from error
        raise UsageError(f"importing {module!r} failed: {error}{place_of(error)}") from error
    except (Exception, SystemExit) as error:
        # A module that calls sys.exit() would otherwise end this process, perhaps with code 0.
        raise UsageError(
            f"importing {module!r} failed: {type(error).__name__}: {error}{place_of(error)}"
        ) from error
    build = getattr(found, factory, None)
    if build is None:
        public = [
            name
            for name, value in vars(found).items()
            if callable(value)
            and not name.startswith("_")
            and getattr(value, "__module__", None) == found.__name__
        ]
        raise UsageError(
            f"module {module!r} has no {factory!r}; it has {', '.join(public) or 'no functions'}"
        )
    if not callable(build):
        raise UsageError(
            f"{module}:{factory} is no function but of type {type(build).__name__}; "
            "give one that takes nothing and returns a Trainer"
        )
    return build
