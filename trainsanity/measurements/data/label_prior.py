"""Label shares of the training data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def label_counts(pipeline: Pipeline, size: int) -> list[int] | None:
    """Return how many training rows have each of ``size`` labels; None without such a column."""
    import numpy

    data = pipeline.train_dataset
    names = getattr(data, "column_names", None)
    column = pipeline.label_column(dict.fromkeys(names)) if names else None
    if column is None or not hasattr(data, "__len__"):
        return None
    labels = numpy.asarray(data.with_format("numpy")[column][:])
    if not numpy.issubdtype(labels.dtype, numpy.integer) or labels.ndim != 1:
        return None
    counts: list[int] = numpy.bincount(
        labels[(labels >= 0) & (labels < size)], minlength=size
    ).tolist()
    return counts


def positive_counts(pipeline: Pipeline, size: int) -> tuple[int, list[int]] | None:
    """Return how many training rows there are, and how many have each of ``size`` labels.

    None without a column of 0 and 1, one or ``size`` of them a row.
    """
    import numpy

    data = pipeline.train_dataset
    names = getattr(data, "column_names", None)
    column = pipeline.label_column(dict.fromkeys(names)) if names else None
    if column is None or not hasattr(data, "__len__"):
        return None
    labels = numpy.asarray(data.with_format("numpy")[column][:])
    if labels.dtype == object or labels.size != len(labels) * size:
        return None
    labels = labels.reshape(len(labels), size)
    if not numpy.isin(labels, (0, 1)).all():
        return None
    return len(labels), labels.sum(0).astype(int).tolist()


def label_prior(pipeline: Pipeline, size: int) -> Any:
    """Label shares of the training set (``[C]`` float64); equal shares where it has no column."""
    import torch

    counts = torch.tensor(label_counts(pipeline, size) or [1] * size, dtype=torch.float64)
    return counts / counts.sum() if counts.sum() else torch.full_like(counts, 1 / size)
