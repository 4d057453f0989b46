"""Begin a new check: `python .ci/scaffold.py STAGE.INVARIANT`.

Writes the check's module with the next free code of its stage and a page to fill in, and a fault
for it to the stage's faults. Prints what is left to do. Nothing that exists is overwritten.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = re.compile(r"([a-z]+)\.([a-z][a-z0-9_]*)")

MODULE = '''"""{code} {name}."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainsanity.engine.registry import check
from trainsanity.types import Finding, Measured

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


@check("{code}", "{name}")
def {invariant}(pipeline: Pipeline) -> Iterator[Measured | Finding]:
    """TODO: what holds, as a sentence.

    What it checks: TODO.

    Why it matters: TODO.

    How it is measured: TODO: the formula, the tolerance and where it comes from.

    How to fix: TODO.

    Known false alarms: TODO.

    References: TODO: owner/repo#N.
    """
    observed, expected = 0, 0
    if observed != expected:
        yield Finding(
            f"TODO: {{observed}}",
            observed=observed,
            expected=expected,
            cause=None,
            fix="TODO",
        )
    yield Measured(f"TODO: neutral, true of both outcomes: {{observed}}", observed, expected)
'''

FAULT = '''

@fault(caught_by={{"{name}"}}, upstream="TODO: owner/repo#N")
def breaks_{invariant}(trainer: Any) -> Any:
    """TODO: what a user did wrong."""
    return trainer
'''

TODO = """{module} and a fault in {faults} are written. What is left:

1. Fault: the upstream thread, and the change that makes the healthy trainer wrong.
2. Check: the page, and what it computes; `needs=`, `cost=`, `requires=` of @check as they apply.
3. See it red:
   UPDATE_SNAPSHOTS=1 pytest -m 'not matrix' tests/test_faults.py -k breaks_{invariant}
   (without -m only faults that stand for others run; if another check is red as well, the fault
   is two faults, or `caught_by` names both; it writes tests/snapshots/checks/{name}.json: read it)
4. See it green:  pytest -m 'not matrix' tests/test_controls.py, and a control in
   fixtures/controls/ that looks odd and is healthy; UPDATE_SNAPSHOTS=1 records where it skips.
5. A number against a bound: a pair in tests/checks/bounds_*.py.
6. Its page's failure:  python .ci/examples.py {code}
7. A fragment in changelog.d/: one sentence in +{invariant}.added.md."""


def scaffold(name: str, root: Path = ROOT) -> str:
    """Write the module and the fault of a new check; return what is left to do.

    Raises:
        SystemExit: the name is malformed, its stage unknown, or the check exists.
    """
    from trainsanity.engine.registry import registry
    from trainsanity.types import STAGES

    match = NAME.fullmatch(name)
    if not match or match[1] not in STAGES:
        raise SystemExit(f"{name!r}: give STAGE.INVARIANT with one of {', '.join(STAGES)}")
    stage, invariant = match.groups()
    module = root / "trainsanity" / "checks" / stage / f"{invariant}.py"
    faults = root / "fixtures" / "faults" / f"{stage}.py"
    if module.exists():
        raise SystemExit(f"{module.relative_to(root)} is there already: choose another name")
    codes = [int(one.code[2:]) for one in registry().all() if one.stage == stage]
    names = {"code": f"TS{max(codes) + 1:03}", "name": name, "invariant": invariant}
    module.write_text(MODULE.format(**names), encoding="utf-8")
    faults.write_text(faults.read_text(encoding="utf-8") + FAULT.format(**names), encoding="utf-8")
    places = {"module": module.relative_to(root), "faults": faults.relative_to(root)}
    return TODO.format(**names, **places)


def main() -> None:
    """Scaffold the check that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="STAGE.INVARIANT")
    print(scaffold(parser.parse_args().name))  # noqa: T201


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
