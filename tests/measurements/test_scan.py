"""The scan against the same numbers counted row by row, whatever the rows lie in."""

from __future__ import annotations

import random
import struct
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, IterableDataset, LargeList, Value, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from fixtures.faults import healthy
from trainsanity import UsageError
from trainsanity.engine.session import Session
from trainsanity.measurements.data import scan, scan_rows
from trainsanity.measurements.data.scan_blocks import Block
from trainsanity.pipeline import Pipeline
from trainsanity.types import Skip

PAD, EOS = 151_643, 151_645


@pytest.fixture(scope="module")
def trainer():
    return healthy()


@pytest.fixture
def scanned(trainer):
    """The pipeline's measurements on other data."""
    before = trainer.train_dataset, trainer.eval_dataset

    def scanned(train, evaluation=None, name="scan", **settings):
        trainer.train_dataset, trainer.eval_dataset = train, evaluation
        pipeline = Pipeline.from_trainer(trainer)
        for attribute, value in settings.items():
            setattr(pipeline, attribute, value)
        return Session.of(pipeline).measurements.get(name)

    yield scanned
    trainer.train_dataset, trainer.eval_dataset = before


def columns(n=200, seed=0, padded=True, masked=True):
    """Rows of every odd kind: empty, padded on either side, with special ids anywhere."""
    draw = random.Random(seed)
    rows = []
    for _ in range(n):
        text = [draw.choice([7, 8, 9, EOS, 150_000]) for _ in range(draw.randrange(12))]
        left, right = (draw.randrange(3), draw.randrange(3)) if padded else (0, 0)
        rows.append((left, text, right))
    made = {
        "input_ids": [[PAD] * left + text + [PAD] * right for left, text, right in rows],
        "label": [draw.randrange(280) for _ in rows],
    }
    if masked:
        made["attention_mask"] = [
            [0] * left + [1] * len(text) + [0] * right for left, text, right in rows
        ]
    return made, [text for _, text, _ in rows]


def expected(made, texts):
    ids = [i for row in made["input_ids"] for i in row]
    return {
        "lengths": [len(text) for text in texts],
        "widths": [len(row) for row in made["input_ids"]],
        "tokens": sum(map(len, texts)),
        "low": min(ids),
        "high": max(ids),
        "eos": sum(text.count(EOS) for text in texts),
        "leading": sum(text[:1] == [EOS] for text in texts),
        "trailing": sum(text[-1:] == [EOS] for text in texts),
        "doubled": sum(text[:2] == [EOS, EOS] for text in texts),
        "rows": sum(EOS in text for text in texts),
        "labels": Counter(made["label"]),
    }


def seen(split):
    special = split.special[EOS]
    return {
        "lengths": split.lengths.tolist(),
        "widths": split.widths.tolist(),
        "tokens": split.tokens,
        "low": split.lowest[0],
        "high": split.highest[0],
        "eos": special.total,
        "leading": special.leading,
        "trailing": special.trailing,
        "doubled": special.doubled,
        "rows": special.rows,
        "labels": Counter(split.labels.counts),
    }


KINDS = [
    pa.list_(pa.int32()),
    pa.list_(pa.int64()),
    pa.list_(pa.uint32()),
    pa.list_(pa.uint64()),
    pa.large_list(pa.int32()),
    pa.large_list(pa.int64()),
]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_list_type(scanned, kind, masked):
    made, texts = columns(masked=masked)
    if masked:
        mask = pa.list_ if not pa.types.is_large_list(kind) else pa.large_list
        made["attention_mask"] = pa.array(made["attention_mask"], mask(pa.int8()))
    table = pa.table({**made, "input_ids": pa.array(made["input_ids"], kind)})
    split = scanned(Dataset(table)).train
    assert seen(split) == expected(made, texts)
    assert made["input_ids"][split.lowest[1]].count(split.lowest[0])
    assert made["input_ids"][split.highest[1]].count(split.highest[0])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.bool_()), pa.list_(pa.uint8()), pa.large_list(pa.int64())], ids=str
)
def test_every_type_of_mask(scanned, kind):
    made, texts = columns()
    mask = pa.array(made["attention_mask"], pa.list_(pa.int8())).cast(kind)
    split = scanned(Dataset(pa.table({**made, "attention_mask": mask}))).train
    assert seen(split) == expected(made, texts)


INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]


@st.composite
def stored(draw):
    """Rows, and a dataset that holds them: any list, any width, any view, in several pieces."""
    size = draw(st.one_of(st.none(), st.integers(1, 5)))
    lengths = st.integers(0, 6) if size is None else st.just(size)
    number = st.integers(0, 127)
    one = lengths.flatmap(lambda n: st.lists(number, min_size=n, max_size=n))
    # A null row, and a null in a row.
    holed = one.map(lambda row: [None, *row[1:]] if row else row)
    row = st.one_of(one, one, one, holed, st.none())
    rows = draw(st.lists(row, min_size=2, max_size=12))
    value = draw(st.sampled_from(INTEGERS))
    kinds = [pa.list_(value), pa.large_list(value)] if size is None else [pa.list_(value, size)]
    kind = draw(st.sampled_from(kinds))
    cut = draw(st.integers(0, len(rows)))
    pieces = [rows[:cut], rows[cut:]]
    column = pa.chunked_array([pa.array(piece, kind) for piece in pieces], kind)
    numbers = list(range(len(rows)))
    begin = draw(st.integers(0, len(rows) - 1))
    view = draw(st.sampled_from(["whole", "slice", "index"]))
    data = Dataset(pa.table({"input_ids": column}))
    if view == "slice":
        numbers = numbers[begin:]
        data = data.select(range(begin, len(rows)))
    elif view == "index":
        numbers = draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=15))
        data = data.select(numbers)
    return [rows[k] for k in numbers], data


@given(stored(), st.sampled_from([1, 64, scan_rows.BLOCK_BYTES]))
def test_what_is_read_is_what_is_stored(case, size):
    rows, data = case
    seen = [None] * len(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan_rows, "BLOCK_BYTES", size)
        for places, batch in scan_rows.rows_of("data", data).blocks(["input_ids"]):
            ids = Block.of(batch, None).ids
            # Nothing of other rows: the lowest and highest id are taken from the values.
            assert (ids.offsets[0], ids.offsets[-1]) == (0, len(ids.values))
            for k, place in enumerate(np.arange(len(rows))[places]):
                row = ids.values[ids.offsets[k] : ids.offsets[k + 1]].tolist()
                seen[place] = (row, bool(ids.nulls is not None and ids.nulls[k]))
    assert seen == [
        ([token or 0 for token in row or []], row is None or None in row) for row in rows
    ]


def test_lists_of_a_fixed_size(scanned):
    made, _ = columns()
    rows = [([*row, *[9] * 16])[:16] for row in made["input_ids"]]
    table = pa.table(
        {"input_ids": pa.array(rows, pa.list_(pa.int64(), 16)), "label": made["label"]}
    )
    split = scanned(Dataset(table).select(range(30, 90))).train
    assert split.widths.tolist() == [16] * 60
    assert split.highest[0] == max(max(row) for row in rows[30:90])


def test_the_datasets_librarys_own_types(scanned):
    made, texts = columns(masked=False)
    features = Features({"input_ids": LargeList(Value("int32")), "label": Value("int64")})
    assert seen(scanned(Dataset.from_dict(made, features=features)).train) == expected(made, texts)


def chosen(made, texts, numbers):
    return {name: [values[k] for k in numbers] for name, values in made.items()}, [
        texts[k] for k in numbers
    ]


VIEWS = {
    "slice": lambda data: data.select(range(37, 141)),
    "indices": lambda data: data.select([5, 5, 199, 0, 77]),
    "shuffle": lambda data: data.shuffle(seed=1),
    "shuffle and slice": lambda data: data.shuffle(seed=1).select(range(20, 90)),
    "filter": lambda data: data.filter(lambda row: row["label"] % 2 == 0),
    "split": lambda data: data.train_test_split(0.3, seed=2)["test"],
    "shards": lambda data: concatenate_datasets([data.shard(3, k) for k in (2, 0)]),
    "format": lambda data: data.with_format("torch"),
}


@pytest.mark.parametrize("block", [64, scan_rows.BLOCK_BYTES])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view(scanned, view, block, monkeypatch):
    monkeypatch.setattr(scan_rows, "BLOCK_BYTES", block)
    made, texts = columns()
    data = Dataset.from_dict({**made, "number": list(range(200))})
    data = VIEWS[view](data)
    numbers = [int(number) for number in data["number"]]
    split = scanned(data).train
    assert seen(split) == expected(*chosen(made, texts, numbers))
    assert split.row(3) == "row 3 of train_dataset"
    place = split.highest[1]
    assert split.highest[0] in made["input_ids"][numbers[place]]


def test_a_subset_of_torch(scanned):
    import torch

    made, texts = columns()
    data = torch.utils.data.Subset(Dataset.from_dict(made).shuffle(seed=4), [3, 1, 190, 2])
    numbers = [made["input_ids"].index(data[k]["input_ids"]) for k in range(4)]
    split = scanned(data).train
    assert split.lengths.tolist() == [len(texts[k]) for k in numbers]


class Rows:
    """A torch-like dataset without columns."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        return self.rows[k]


def test_a_plain_dataset_is_sampled_and_says_so(scanned):
    made, _ = columns(3_000, padded=False)
    rows = Rows(Dataset.from_dict(made).to_list())
    split = scanned(rows).train
    assert split.counted == "a sample of 1,000 of 3,000 rows, evenly spaced"
    assert split.row(999) == "row 2999 of train_dataset"
    small = scanned(Rows(rows.rows[:20])).train
    assert small.counted == "20 rows"


def test_a_stream_is_sampled_and_says_so(scanned):
    made, texts = columns(1_500)
    data = Dataset.from_dict(made)
    split = scanned(data.to_iterable_dataset()).train
    assert split.counted == "a sample, the first 1,000 rows"
    first = chosen(made, texts, range(1_000))
    assert seen(split) == expected(*first)
    short = scanned(data.select(range(12)).to_iterable_dataset()).train
    assert short.counted == "12 rows"


def test_a_transform_is_sampled_since_what_is_stored_is_not_what_is_trained_on(scanned):
    data = Dataset.from_dict({"text": ["a b", "c"] * 10})
    data.set_transform(lambda batch: {"input_ids": [[1, 2]] * len(batch["text"]),
                                      "label": [0] * len(batch["text"])})  # fmt: skip
    assert scanned(data).train.lengths.tolist() == [2] * 20


def test_progress_is_told(scanned):
    made, _ = columns()
    told = []
    scanned(Dataset.from_dict(made), progress=lambda *word: told.append(word))
    assert told == [(200, 200, "reading train_dataset")]


def test_progress_is_told_now_and_then(scanned, monkeypatch):
    monkeypatch.setattr(scan, "REPORT_EVERY", 50)
    monkeypatch.setattr(scan, "AT_A_TIME", 1)
    part = Dataset.from_dict({"input_ids": [[1]] * 20, "label": [0] * 20})
    told = []
    scanned(concatenate_datasets([part] * 6), progress=lambda done, *_: told.append(done))
    assert told == [60, 120]
    told.clear()
    scanned(concatenate_datasets([part] * 7), progress=lambda done, *_: told.append(done))
    assert told == [60, 120, 140]


def test_parts_without_rows(scanned, monkeypatch):
    monkeypatch.setattr(scan, "AT_A_TIME", 1)
    some = Dataset.from_dict({"input_ids": [[1, 2], [3]] * 4, "label": [0, 1] * 4}).data.table
    split = scanned(Dataset(pa.concat_tables([some[:0], some, some[:0]]))).train
    assert split.lengths.tolist() == [2, 1] * 4


def test_labels_of_every_kind(scanned):
    ids = [[1, 2], [3], [4, 5, 6]]

    def labels(values, kind=None):
        column = pa.array(values, kind)
        return scanned(Dataset(pa.table({"input_ids": ids * 2, "labels": column}))).train.labels

    whole = labels([3, -100, 3, 7, None, 3])
    assert whole.counts == {3: 3, -100: 1, 7: 1}
    assert (whole.low, whole.high) == ((3, 0), (7, 3))
    assert whole.nulls.tolist() == [4]
    assert whole.first(7) == 3
    # A row without a label has a code of its own, whatever the lowest label is.
    for low in (0, 1, 5):
        codes = labels([low, low + 1, None, low, None, low + 3]).codes
        assert codes.tolist() == [0, 1, -1, 0, -1, 3]
    assert whole.shares(8).tolist() == [0, 0, 0, 0.75, 0, 0, 0, 0.25]
    far = labels([10**12, 0, 5, 5, 5, 5])
    assert far.counts == {5: 4, 10**12: 1, 0: 1}
    real = labels([0.5, float("nan"), 2.0, -1.0, 0.5, 2.0])
    assert real.kind == "float"
    assert (real.low, real.high) == ((-1.0, 3), (2.0, 2))
    assert real.not_finite.tolist() == [1]
    assert real.shares(2) is None
    words = labels(list("abcabc"))
    assert words.counts == {"a": 2, "b": 2, "c": 2}
    tokens = labels([[-100, 1], [-100], [2, 2, 9], [1], [4], [0, 0, 0]])
    assert (tokens.low[0], tokens.high) == (0, (9, 2))
    assert tokens.widths == (1, 3)
    assert tokens.uneven.tolist() == [3]
    assert tokens.silent.tolist() == [1]
    assert tokens.first_ignored == 0
    targets = labels([[0.0, 1.0], [0.5, -100.0], [1.0, float("inf")]] * 2)
    assert targets.not_finite.tolist() == [2, 5]
    assert (targets.low[0], targets.high[0]) == (0.0, 1.0)


@pytest.mark.parametrize("block", [8, scan_rows.BLOCK_BYTES])
@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        # Of the longest only the end differs, then only the beginning, then both, then none.
        ([[5, 1, 6], [5, 6], [5, 2, 7], [5, 6]], ([5, 5, 5, 5], [6, 6, 7, 6])),
        ([[5, 1, 6], [5, 6], [8, 2, 6], [5, 6]], ([5, 5, 8, 5], [6, 6, 6, 6])),
        ([[5, 6], [5, 6], [8, 9, 1, 2], [5, 7, 6]], ([5, 5, 8, 5], [6, 6, 2, 6])),
        ([[5, 6], [5, 6], [5, 6], [5, 6]], ([5, 5, 5, 5], [6, 6, 6, 6])),
        # Two of the shorter ones differ, at one end or both.
        ([[5, 1, 6], [5, 7], [5, 6], [5, 2, 6]], ([5, 5, 5, 5], None)),
        ([[1, 1, 6], [2, 6], [3, 6], [1, 2, 6]], (None, [6, 6, 6, 6])),
        ([[1, 1, 6], [2, 7], [3, 6], [1, 2, 6]], (None, None)),
    ],
)
def test_the_ends_of_rows_as_long_as_the_shorter_ones_agree(
    scanned, rows, ends, block, monkeypatch
):
    monkeypatch.setattr(scan_rows, "BLOCK_BYTES", block)
    split = scanned(Dataset.from_dict({"input_ids": rows, "label": [0] * len(rows)})).train
    for noted, right in zip((split.first, split.last), ends, strict=True):
        # Between blocks nothing is compared, so that more may be noted: the check compares.
        if right is not None:
            assert noted.tolist() == right
        elif block > 8:
            assert noted is None


def test_rows_without_text_are_those_of_nothing_but_special_ids(scanned):
    texts = [[EOS], [7, EOS], [EOS, EOS], [], [EOS, 7, EOS], [7], [EOS, EOS, EOS], [PAD, 8]]
    made = {"input_ids": texts, "label": [0] * len(texts)}
    made["attention_mask"] = [[1] * len(row) for row in texts[:-1]] + [[1, 0]]
    split = scanned(Dataset.from_dict(made)).train
    assert split.empty(0, {EOS}).tolist() == [3]
    assert split.empty(1, {EOS}).tolist() == [0, 3]
    assert split.empty(2, {EOS}).tolist() == [0, 2, 3]
    assert split.empty(3, {EOS}).tolist() == [0, 2, 3, 6]
    # What is not attended is no text; PAD, if it is attended, is one unless it is special.
    assert split.empty(1, {EOS, PAD}).tolist() == [0, 3, 7]


def test_duplicates_are_those_that_a_dictionary_finds(scanned):
    draw = random.Random(1)
    texts = [[draw.choice([1, 2]) for _ in range(draw.randrange(1, 9))] for _ in range(400)]
    labels = [draw.randrange(3) for _ in texts]
    data = Dataset.from_dict({"input_ids": texts[:300], "label": labels[:300]})
    held_out = Dataset(
        pa.table(
            {
                "input_ids": pa.array([[*t, PAD] for t in texts[300:]], pa.large_list(pa.int64())),
                "label": labels[300:],
            }
        )
    )
    found = scanned(data, {"late": held_out}, name="repeats")
    pairs = [(tuple(t), y) for t, y in zip(texts, labels, strict=True)][:300]
    by_text = {}
    for text, label in pairs:
        by_text.setdefault(text, Counter())[label] += 1
    assert found.copies == 300 - len(set(pairs))
    assert found.contradictions == sum(c.total() - max(c.values()) for c in by_text.values())
    later, earlier = found.first_copy
    assert earlier < later
    assert pairs[later] == pairs[earlier]
    assert later == next(k for k in range(300) if pairs[k] in pairs[:k])
    one, other = found.first_contradiction
    assert pairs[one][0] == pairs[other][0]
    assert pairs[one][1] != pairs[other][1]
    leak = found.leaks["eval_dataset['late']"]
    assert leak.rows == sum(tuple(t) in by_text for t in texts[300:])
    place, twin = leak.first
    assert texts[300 + place] == texts[twin]


def test_rows_that_agree_at_the_probed_places_only_are_no_duplicates(scanned):
    long = list(range(1, 101))
    other = [*long[:50], 7, *long[51:]]
    found = scanned(Dataset.from_dict({"input_ids": [long, other] * 10, "label": [0, 1] * 10}),
                    name="repeats")  # fmt: skip
    assert (found.copies, found.contradictions) == (18, 0)


def test_text_again(scanned, trainer):
    tokenizer = trainer.processing_class
    texts = [f"row number {k} of them " + "and more " * (k % 5) for k in range(40)]
    ids = [tokenizer(text)["input_ids"] for text in texts]

    def retokenized(**data):
        return scanned(Dataset.from_dict({"label": [0] * 40, **data}), name="retokenized")

    assert retokenized(text=texts, input_ids=ids).wrong == ()
    assert retokenized(sentence=texts, input_ids=ids).column == "sentence"
    # Cut on either side, and with special tokens around.
    assert retokenized(text=texts, input_ids=[row[:4] for row in ids[:39]] + [ids[39]]).wrong == ()
    assert retokenized(text=texts, input_ids=[[EOS, *row[-3:], EOS] for row in ids[:39]] + [ids[4]]
                       ).wrong == ()  # fmt: skip
    inside = [tokenizer(f"<<{text}>>!")["input_ids"] for text in texts]
    assert retokenized(text=texts, input_ids=inside).wrong == ()
    edited = [*texts[:20], *[text.upper() for text in texts[20:]]]
    wrong = retokenized(text=edited, input_ids=ids).wrong
    assert wrong
    assert min(wrong) >= 20
    with pytest.raises(Skip, match="no column of train_dataset holds the text"):
        retokenized(input_ids=ids)
    with pytest.raises(Skip, match=r"no row consists of the tokens of one column alone \(url\)"):
        retokenized(url=["http://a.b/c"] * 40, input_ids=ids)
    with pytest.raises(Skip, match="all rows have the same length"):
        retokenized(text=texts, input_ids=[row[:4] for row in ids])


@pytest.fixture
def corrupted(tmp_path):
    """A dataset from a file in which numbers stand in the place of others."""

    def corrupted(table, form, right, wrong):
        path = tmp_path / "data.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        content, right = path.read_bytes(), struct.pack(form, *right)
        assert content.count(right) == 1
        path.write_bytes(content.replace(right, struct.pack(form, *wrong)))
        return Dataset.from_file(str(path))

    return corrupted


CORRUPTED = r"input_ids of train_dataset.* is corrupted \("


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("ends", [[0, 2, 99, 3, 4], [0, 3, 1, 3, 4], [0, 1, 2, 3, 10**6]])
def test_a_corrupted_file(scanned, corrupted, ends, kind):
    ids = pa.array([[11], [12], [13], [14]], kind(pa.int32()))
    table = pa.table({"input_ids": ids, "label": [0, 1, 2, 3]})
    form = "<5q" if kind is pa.large_list else "<5i"
    with pytest.raises(UsageError, match=CORRUPTED):
        scanned(corrupted(table, form, range(5), ends))


def test_a_file_with_fewer_values_than_it_claims(scanned, corrupted):
    table = pa.table({"input_ids": pa.array([[11], [12], [13], [14]], pa.list_(pa.int32()))})
    # Where the values' buffer begins, behind 20 bytes of offsets, and its bytes.
    with pytest.raises(UsageError, match=CORRUPTED):
        scanned(corrupted(table, "<2q", (24, 16), (24, 8)))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"ids": [[1]] * 8, "label": [0] * 8}, "no column 'input_ids' \\(it has ids, label\\)"),
        ({"input_ids": ["a"] * 8}, "is of type string; give each row a flat list of numbers"),
        ({"input_ids": [[[1]]] * 8}, "give each row a flat list of numbers"),
        ({"input_ids": [[0.5]] * 8}, "are of type float64; give integers"),
        (
            {name: [[1]] * 8 for name in ("input_ids", "attention_mask")}
            | {"labels": [[["a"]]] * 8},
            "labels of train_dataset is of type",
        ),
    ],
)
def test_columns_that_cannot_be_read(scanned, data, says):
    with pytest.raises(UsageError, match=says):
        scanned(Dataset.from_dict(data))


def test_rows_that_are_chosen_twice_are_read_twice(scanned):
    rows = [[1] * n for n in range(1, 5)]
    parts = [Dataset.from_dict({"input_ids": ids, "label": [0, 0]}) for ids in (rows[:2], rows[2:])]
    split = scanned(concatenate_datasets(parts).select([1, 1, 2, 2])).train
    assert split.lengths.tolist() == [2, 2, 3, 3]
    split = scanned(concatenate_datasets(parts).select([3, 2, 0, 1])).train
    assert split.lengths.tolist() == [4, 3, 1, 2]


def test_the_lowest_id_stands_in_any_block(scanned):
    parts = ([[5, 0], [1]], [[4], [9, -3, 2]], [[-2], [3]])
    data = [Dataset.from_dict({"input_ids": ids, "label": [0, 0]}) for ids in parts]
    assert scanned(concatenate_datasets(data)).train.lowest == (-3, 3)
    assert scanned(concatenate_datasets(data[:1] * 2)).train.lowest == (0, 0)
    above = [Dataset.from_dict({"input_ids": [[k], [k + 1]], "label": [0, 0]}) for k in (5, 3, 4)]
    assert scanned(concatenate_datasets(above)).train.lowest == (3, 2)
    assert scanned(concatenate_datasets(data[::-1])).train.lowest == (-3, 3)


@pytest.mark.parametrize("main", ["input_features", "pixel_values"])
def test_a_model_that_takes_no_ids_needs_none(scanned, trainer, monkeypatch, main):
    monkeypatch.setattr(trainer.model, "main_input_name", main, raising=False)
    found = scanned(Dataset.from_dict({"ids": [[1]] * 8, "label": [0] * 8})).train
    assert (found.content.role, found.content.columns) == ("numbers", ("ids",))
    with pytest.raises(Skip, match="train_dataset has no column 'input_ids'"):
        scanned(Dataset.from_dict({"label": [0] * 8}))


def test_a_stream_without_rows_and_a_split_without_rows(scanned):
    def nothing():
        yield from ()

    with pytest.raises(UsageError, match="train_dataset is empty: pass rows"):
        scanned(IterableDataset.from_generator(nothing))
    made, _ = columns()
    data = Dataset.from_dict(made)
    with pytest.raises(UsageError, match="eval_dataset is empty: pass rows, or None"):
        scanned(data, data.select([]))


def test_rows_of_different_kinds(scanned):
    rows = [{"input_ids": [1], "label": 0}] * 8 + [{"input_ids": "one", "label": 0}]
    with pytest.raises(UsageError, match="'input_ids' of train_dataset holds values of different"):
        scanned(Rows(rows))
    with pytest.raises(Skip, match="rows of train_dataset are of tuple, without named columns"):
        scanned(Rows([([1], 0)] * 8))


def test_a_dataset_that_raises(scanned):
    class Broken(Rows):
        def __getitem__(self, k):
            raise OSError("the disk is gone\nand more")

    with pytest.raises(UsageError, match="train_dataset raised OSError when its rows were read: "):
        scanned(Broken([0] * 8), eval_dataset=None)
