"""Checks that ask by role are red on a fault of theirs, in the kinds that they were opened to."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from tests.coverage import table

QUICK = (
    "collator.mask_is_exact",
    "collator.pad_to_multiple_of",
    "dataset.labels_in_range",
    "loss.matches_reference",
    "loss.train_equals_eval",
    "model.mask_is_obeyed",
)
"""Checks whose faults are planted in the gate: what each new way of asking rests on."""

pytestmark = pytest.mark.filterwarnings("ignore")


def _ids() -> list[Any]:
    pytest.importorskip("transformers", minversion="5")
    if find_spec("trl") is None:
        pytest.skip("trl is not installed", allow_module_level=True)
    from tests.coverage.planted import PLANTED

    return [
        pytest.param(one, id=one.id, marks=[] if one.check in QUICK else [pytest.mark.matrix])
        for one in PLANTED
    ]


def test_every_check_that_the_table_gained_has_its_fault() -> None:
    from tests.coverage.planted import OPENED, PLANTED

    assert {(one.kind, one.check) for one in PLANTED} >= OPENED


@pytest.mark.parametrize("one", _ids())
def test_the_check_is_red_on_its_fault(one: Any) -> None:
    from tests.coverage.kinds import KINDS
    from trainsanity import PipelineSpec
    from trainsanity.engine.registry import registry
    from trainsanity.engine.runner import run

    if not table.possible(KINDS[one.kind]):
        pytest.skip(f"{KINDS[one.kind].needs} is not installed")
    chosen = registry().select([one.check])
    report = PipelineSpec(one.id, one.make).visit(lambda pipeline: run(pipeline, chosen))
    [result] = report.results
    assert str(result.status) == one.status, (result.reason, result.message)
