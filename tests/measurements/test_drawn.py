"""The rows of a batch that cases are cut from."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from trainsanity.measurements.batches.batch import Batch, MicroBatch
from trainsanity.measurements.batches.drawn import SOURCES, _rows_at_once, _sources

PAD, EOS = 0, 1
TOKENIZER = SimpleNamespace(all_special_ids=[PAD, EOS], eos_token_id=EOS)


def sources(*rows):
    made = [{"input_ids": row, "attention_mask": [int(t != PAD) for t in row]} for row in rows]
    batch = Batch([MicroBatch({"input_ids": torch.zeros(len(made), 1)}, made)])
    return [row["input_ids"] for row in _sources(SimpleNamespace(tokenizer=TOKENIZER), batch)]


def test_of_many_rows_as_many_as_are_wanted_of_every_length():
    rows = [[7] * n for n in range(1, 3 * SOURCES + 1)]
    assert [len(row) for row in sources(*rows)] == list(range(3 * SOURCES, 0, -3))
    assert len(sources(*rows[:SOURCES])) == SOURCES
    assert len(sources([7], [8, 9])) == 2


def test_special_tokens_are_left_out_but_for_an_eos_at_the_end():
    assert sources([EOS, 7, 8, EOS, PAD], [PAD, EOS, 9, EOS, 5]) == [[7, 8, EOS], [9, 5]]
    assert sources([EOS, EOS], [PAD, PAD]) == []


def test_a_collator_is_given_no_more_rows_than_in_the_run():
    def at_once(sizes, evaluation=None, eval_batch_size=8):
        args = SimpleNamespace(eval_batch_size=eval_batch_size)
        pipeline = SimpleNamespace(eval_dataset=evaluation, args=args)
        inputs = {"input_ids": torch.zeros(1, 1)}
        rows = [[{"input_ids": [7]}] * size for size in sizes]
        return _rows_at_once(pipeline, Batch([MicroBatch(inputs, one) for one in rows]))

    assert at_once([1, 1]) == 1
    assert at_once([1, 3]) == 3
    assert at_once([1], evaluation=[7]) == 8
    assert at_once([1], evaluation=[7], eval_batch_size=1) == 1
    assert at_once([16], evaluation=[7]) == 16
