from __future__ import annotations

import pytest
import torch

from trainsanity.measurements.model.positions import _longest


@pytest.mark.parametrize(
    ("places", "mask", "found"),
    [
        pytest.param([[0, 1, 2, 3]], None, (0, 0, 4), id="one document"),
        pytest.param([[0, 1, 0, 1, 2]], None, (0, 2, 5), id="the longer one of two"),
        # Behind the jump five tokens count up, from a number that was chosen.
        pytest.param([[0, 1, 2, 40, 41, 42, 43, 44]], None, (0, 0, 3), id="a jump on purpose"),
        pytest.param([[5, 6, 7]], None, (0, 0, 3), id="from another number"),
        pytest.param([[0, 0, 0, 1, 2]], [[0, 0, 1, 1, 1]], (0, 2, 5), id="padded on the left"),
        pytest.param([[1, 1, 4, 5, 6]], [[0, 0, 1, 1, 1]], (0, 2, 5), id="behind padding"),
    ],
)
def test_the_run_that_is_asked_begins_with_a_document(places, mask, found):
    mask = None if mask is None else torch.tensor(mask)
    assert _longest(torch.tensor(places), mask) == found
