"""Rows of a batch, and where they lie in it."""

from __future__ import annotations

import torch

from trainsanity.maths.alignment import turned


def test_rows_in_another_order_keep_what_belongs_together():
    rows = [{"input_ids": [k, k]} for k in range(1, 5)]

    def order(*ids, each=1):
        return turned(rows, {"input_ids": torch.tensor([[k, k] for k in ids])}, each)

    assert order(1, 2, 3, 4) is None
    assert order(3, 1, 4, 2) == [2, 0, 3, 1]
    assert order(3, 1, 4, 9) is None
    assert order(4, 3, 1, 2, each=2) == [3, 2, 0, 1]
    assert order(1, 3, 2, 4, each=2) is None
