"""The inputs of a block of rows as one list of values a row, whatever columns hold them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from trainsanity.fields import (
    BESIDE_IDS,
    IDS,
    MASK,
    NUMBERS,
    PIXELS,
    PLAIN,
    TEXT,
    TOKENS,
    Content,
    role_of,
    token_content,
)
from trainsanity.measurements.data.scan_rows import Lists, lists, refuse_negative
from trainsanity.pipeline import unwrapped

if TYPE_CHECKING:
    from trainsanity.measurements.data.scan_rows import Array
    from trainsanity.pipeline import Pipeline


def content_of(pipeline: Pipeline, schema: Any, label: str | None) -> Content | None:
    """Return which columns hold a row's inputs: token ids, else what the model takes, else text.

    Args:
        pipeline: whose rows.
        schema: ``pyarrow.Schema`` of the rows.
        label: the label column, or None.
    """
    if IDS in schema.names:
        return token_content(schema.names)
    kinds = {field.name: _leaf(field.type) for field in schema if field.name != label}
    tokens = token_content(name for name, kind in kinds.items() if kind == "list of integers")
    if tokens is not None:
        return tokens
    main = getattr(unwrapped(pipeline.model), "main_input_name", None)
    if kinds.get(main or "", "").endswith(("integers", "floats")):
        return Content(role_of(main or ""), (main or "",))
    takes = inspect.signature(unwrapped(pipeline.model).forward).parameters
    others = {name: kind for name, kind in kinds.items() if name not in BESIDE_IDS}
    numbers = [name for name, kind in others.items() if kind.endswith(("integers", "floats"))]
    given = [name for name in numbers if name in takes]
    if given:
        return Content(role_of(given[0]), tuple(given))
    if images := [name for name, kind in others.items() if kind == "image"]:
        return Content(PIXELS, tuple(images))
    if texts := [name for name, kind in others.items() if kind == "text"]:
        return Content(TEXT, tuple(texts))
    return Content(NUMBERS, tuple(numbers)) if numbers else None


def beside_ids(pipeline: Pipeline, schema: Any, label: str | None) -> list[str]:
    """Return what a row holds beside its one column of ids that makes it another row.

    Pictures, sounds and other lists of floats, the files that they lie in, and numbers that the
    model's forward takes, as the boxes of words; not what is made of the ids.
    """
    if IDS not in schema.names:
        return []
    takes = inspect.signature(unwrapped(pipeline.model).forward).parameters
    found = []
    for field in schema:
        name, kind = field.name, _leaf(field.type)
        if name in (IDS, MASK, "labels", label, *BESIDE_IDS):
            continue
        numbers = kind.endswith(("integers", "floats"))
        is_list = getattr(field.type, "num_fields", 0) or hasattr(field.type, "storage_type")
        files = kind == "text" and role_of(name) != NUMBERS
        floats = kind == "floats" and is_list
        if kind == "image" or files or floats or (numbers and name in takes):
            found.append(name)
    return found


def _leaf(kind: Any) -> str:
    """Return what a column holds: ``integers`` and ``floats``, in lists or not, ``text`` ..."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        if names == {"bytes", "path"}:
            return "image"
        return "text" if "content" in names else "other"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_integer(kind) or types.is_boolean(kind):
        return "list of integers" if depth == 1 else "integers"
    return "floats" if types.is_floating(kind) else "other"


def gathered(batch: Any, content: Content, name: str) -> tuple[Lists, Array | None]:
    """Return the values of each row of a ``pyarrow.RecordBatch``, and its longest sequence.

    Numbers that are no ids come as the integers that their bits are: rows are compared by them.

    Returns:
        The values, and the tokens of each row's longest sequence; None for that if a row's values
        are one sequence.

    Raises:
        UsageError: the columns cannot be read.
    """
    if content == PLAIN or content.plain:
        column = batch.column(IDS)
        return _choices(column, name) if _is_nested(column.type) else (
            lists(column, f"{IDS} of {name}"), None)  # fmt: skip
    parts = {column: innermost(batch.column(column), f"{column} of {name}")
             for column in content.columns}  # fmt: skip
    reach = None
    if content.role == TOKENS and len(content.sequences) > 1:
        import numpy

        reach = numpy.stack(
            [sum(parts[column].lengths for column in sequence) for sequence in content.sequences]
        ).max(0)
    every = [*parts.values()]
    return (every[0] if len(every) == 1 else side_by_side(every)), reach


def _is_nested(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_nested(kind) and types.is_nested(kind.value_type))


def _choices(column: Any, name: str) -> tuple[Lists, Array]:
    """Return lists of lists as one list a row, and the longest inner list of each row."""
    import numpy

    inner = innermost(column.flatten(), f"{IDS} of {name}")
    found = innermost(column, f"{IDS} of {name}")
    counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    reach = numpy.zeros(len(column), numpy.int64)
    rows = numpy.repeat(numpy.arange(len(column)), counts)
    numpy.maximum.at(reach, rows, inner.lengths)
    return found, reach


def innermost(column: Any, name: str) -> Lists:
    """Return the innermost values of a ``pyarrow.Array``, row by row."""
    import numpy
    import pyarrow as pa
    from pyarrow import types

    column = getattr(column, "storage", column)  # of an extension type
    kind = column.type
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = innermost(column.flatten(), name)
        counts = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        refuse_negative(counts, name)
        ends = numpy.concatenate([[0], numpy.cumsum(counts)])
        nulls = _nulls(column)
        if inner.nulls is not None:
            holes = numpy.concatenate([[0], numpy.cumsum(inner.nulls)])
            within = holes[ends[1:]] > holes[ends[:-1]]
            nulls = within if nulls is None else nulls | within
        return Lists(inner.values, inner.offsets[ends], nulls)
    if types.is_struct(kind):
        fields = {kind.field(i).name: column.field(i) for i in range(kind.num_fields)}
        # An image is its bytes, or the file that it is in; a message its role and text.
        if fields.keys() == {"bytes", "path"}:
            used = [fields["bytes"] if fields["bytes"].null_count < len(column) else fields["path"]]
        else:
            used = [part for key, part in sorted(fields.items()) if key in ("content", "role")]
        parts = [innermost(part, name) for part in used]
        return parts[0] if len(parts) == 1 else side_by_side(parts)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind):
        column = column.cast(pa.large_binary())
    if types.is_large_binary(column.type):
        filled = column.fill_null(b"") if column.null_count else column
        offsets = numpy.frombuffer(filled.buffers()[1], numpy.int64)
        offsets = offsets[filled.offset : filled.offset + len(filled) + 1]
        held = filled.buffers()[2]
        values = numpy.frombuffer(held or b"", numpy.uint8)[int(offsets[0]) : int(offsets[-1])]
        return Lists(values, offsets - offsets[0], _nulls(column))
    if types.is_boolean(kind):
        column = column.cast(pa.uint8())
    nulls = _nulls(column)
    plain = column.fill_null(0) if nulls is not None else column
    values = plain.to_numpy(zero_copy_only=False)
    if values.dtype.kind == "f":
        values = values.view(f"i{values.itemsize}")
    return Lists(values, numpy.arange(len(column) + 1), nulls)


def _nulls(column: Any) -> Array | None:
    return column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None


def side_by_side(parts: Iterable[Lists]) -> Lists:
    """Return lists whose rows are those of the parts, one behind the other."""
    import numpy

    every = [*parts]
    sizes = [part.lengths for part in every]
    offsets = numpy.concatenate([[0], numpy.cumsum(numpy.sum(sizes, axis=0))])
    kinds = {part.values.dtype for part in every}
    kind = kinds.pop() if len(kinds) == 1 else numpy.dtype(numpy.int64)
    values = numpy.empty(int(offsets[-1]), kind)
    begins = offsets[:-1].copy()
    nulls = None
    for part, size in zip(every, sizes, strict=True):
        shift = numpy.repeat(begins - part.offsets[:-1], size)
        values[shift + numpy.arange(len(part.values))] = part.values
        begins += size
        if part.nulls is not None:
            nulls = part.nulls if nulls is None else nulls | part.nulls
    return Lists(values, offsets, nulls)
