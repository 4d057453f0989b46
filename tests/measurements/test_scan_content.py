from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from datasets import Dataset, Image

from trainsanity.engine.session import Session
from trainsanity.errors import UsageError
from trainsanity.fields import NUMBERS, PIXELS, TEXT, TOKENS
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip


class Model(torch.nn.Module):
    def __init__(self, main: str | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        if main is not None:
            self.main_input_name = main

    def forward(self, x: Any = None, pixel_values: Any = None, labels: Any = None) -> Any:
        return self.layer(x)


def asked(name: str, rows: Any, evals: Any = None, main: str | None = None, **parts: Any) -> Any:
    pipeline = Pipeline(
        Model(main),
        train_dataset=rows,
        eval_dataset=evals,
        args=SimpleNamespace(label_names=None, remove_unused_columns=False, world_size=1),
        **parts,
    )
    return Session.of(pipeline).measurements.get(name)


def data(rows: list[dict[str, Any]], **features: Any) -> Dataset:
    return Dataset.from_list(rows)


PAIR = {"prompt_ids": [1, 2, 3], "chosen_ids": [4, 5], "rejected_ids": [6]}


def test_a_row_of_a_pair_is_all_of_its_ids_and_two_sequences() -> None:
    other = {**PAIR, "chosen_ids": [4, 5, 7, 8]}
    split = asked("scan", data([PAIR, other])).train
    assert split.content.role == TOKENS
    assert split.lengths.tolist() == [6, 8]
    assert split.sequences.tolist() == [5, 7]
    assert (split.longest, split.shortest, split.tokens) == (7, 5, 14)
    assert (split.lowest, split.highest) == ((1, 0), (8, 1))
    with pytest.raises(Skip, match="prompt_ids, chosen_ids and rejected_ids"):
        split.require_one_sequence()


def test_pairs_that_repeat_and_leak() -> None:
    rows = [PAIR, {**PAIR, "rejected_ids": [9]}, PAIR]
    found = asked(
        "repeats", data(rows), data([{**PAIR, "rejected_ids": [9]}, {**PAIR, "prompt_ids": [3]}])
    )
    assert (found.copies, found.first_copy) == (1, (2, 0))
    assert found.leaks["eval_dataset"].rows == 1


def test_answers_to_other_prompts_are_no_content() -> None:
    one = {"prompt_ids": [1], "completion_ids": [2], "KL_completion_ids": [3], "label": True}
    rows = [one, {**one, "KL_completion_ids": [4]}, {**one, "label": False}]
    found = asked("repeats", data(rows))
    assert (found.copies, found.contradictions) == (1, 1)


def test_choices_are_one_row_and_several_sequences() -> None:
    rows = [
        {"input_ids": [[1, 2], [1, 3, 4]], "attention_mask": [[1, 1], [1, 1, 1]], "label": 0},
        {"input_ids": [[1, 2], [1, 9, 0]], "attention_mask": [[1, 1], [1, 1, 0]], "label": 1},
    ]
    split = asked("scan", data(rows)).train
    assert split.widths.tolist() == [5, 5]
    assert split.lengths.tolist() == [5, 4]
    assert split.sequences.tolist() == [3, 3]
    assert split.highest == (9, 1)


def test_one_choice_is_a_nest_too_many() -> None:
    with pytest.raises(UsageError, match="give each row a flat list of numbers"):
        asked("scan", data([{"input_ids": [[1, 2]], "label": 0}]))


@pytest.mark.parametrize("main", [None, "pixel_values"])
def test_pixels_are_compared_by_their_values(main: str | None) -> None:
    one = [[[0.5, -1.0], [0.25, 0.0]]]
    other = [[[0.5, -1.0], [0.25, 1.0]]]
    rows = [{"pixel_values": x, "label": y} for x, y in ((one, 0), (other, 0), (one, 1), (one, 0))]
    split = asked("scan", data(rows), main=main).train
    assert split.content.role == PIXELS
    assert (split.lowest, split.highest, split.special) == (None, None, {})
    with pytest.raises(Skip, match="the rows hold pixels"):
        split.require_tokens()
    found = asked("repeats", data(rows), data(rows[1:2]), main=main)
    assert (found.copies, found.first_copy, found.contradictions) == (1, (3, 0), 1)
    assert found.leaks["eval_dataset"].rows == 1


def test_numbers_without_lists() -> None:
    rows = [{"a": 1.0, "b": 2, "label": 0}, {"a": 1.0, "b": 3, "label": 0}] * 2
    split = asked("scan", data(rows)).train
    assert (split.content.role, split.content.columns) == (NUMBERS, ("a", "b"))
    assert asked("repeats", data(rows)).copies == 2


def test_texts_and_conversations() -> None:
    rows = [{"anchor": "one", "positive": text} for text in ("two", "three", "two")]
    split = asked("scan", data(rows)).train
    assert (split.content.role, split.content.columns) == (TEXT, ("anchor", "positive"))
    assert asked("repeats", data(rows)).first_copy == (2, 0)
    said = [[{"role": "user", "content": text}] for text in ("two", "three", "two")]
    assert asked("repeats", data([{"prompt": one} for one in said])).first_copy == (2, 0)


def test_a_null_text_is_a_null_row() -> None:
    split = asked("scan", data([{"text": "a"}, {"text": None}])).train
    assert split.nulls.tolist() == [1]
    assert split.empty(0, set()).tolist() == []


def test_images_of_files_are_their_bytes() -> None:
    from_array = pytest.importorskip("PIL.Image").fromarray
    pixels = numpy.zeros((2, 2, 3), numpy.uint8)
    rows = Dataset.from_dict(
        {"image": [from_array(one) for one in (pixels, pixels + 1, pixels)], "label": [0, 1, 0]}
    ).cast_column("image", Image())
    split = asked("scan", rows).train
    assert split.content.role == PIXELS
    assert asked("repeats", rows).first_copy == (2, 0)


def test_rows_without_anything_to_compare() -> None:
    with pytest.raises(Skip, match="and no numbers or texts"):
        asked("scan", data([{"label": 0}]))


def test_equal_rows_of_a_table_leak_with_their_label_alone() -> None:
    def rows(*given: tuple[float, float, float]) -> Dataset:
        return data([{"a": a, "b": b, "label": y} for a, b, y in given])

    train = rows((0, 1, 2.5), (0, 1, 3.5), (1, 1, 0.5), (1, 0, 0.25))
    other, same = rows((0, 1, 9.0), (1, 1, 7.5)), rows((0, 1, 3.5), (1, 1, 0.5), (0, 1, 8.0))
    leak = asked("repeats", train, other).leaks["eval_dataset"]
    assert (leak.rows, leak.first, leak.unlike) == (0, None, 2)
    leak = asked("repeats", train, same).leaks["eval_dataset"]
    assert (leak.rows, leak.first, leak.unlike) == (2, (0, 1), 1)


def test_one_graph_whose_nodes_are_divided_is_no_leak() -> None:
    def graph(*labels: int) -> Dataset:
        return data([{"features": [[0.5, 1.0], [0.25, 2.0]], "labels": list(labels)}])

    for labels, apart in (((-100, 1), True), ((1, 1), False)):
        leak = asked("repeats", graph(0, -100), graph(*labels)).leaks["eval_dataset"]
        assert (leak.rows, leak.apart) == (1, apart)
