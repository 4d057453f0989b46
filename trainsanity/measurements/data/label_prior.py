"""Label shares of the training data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainsanity.pipeline import Pipeline


def label_prior(pipeline: Pipeline, size: int) -> Any:
    """Label shares of the training set (``[C]`` float64); equal shares where it has no column."""
    import numpy
    import torch

    equal = torch.full((size,), 1 / size, dtype=torch.float64)
    data = pipeline.train_dataset
    names = getattr(data, "column_names", None)
    column = pipeline.label_column(dict.fromkeys(names)) if names else None
    if column is None or not hasattr(data, "__len__"):
        return equal
    labels = numpy.asarray(data.with_format("numpy")[column][:])
    if not numpy.issubdtype(labels.dtype, numpy.integer):
        return equal
    counts = numpy.bincount(labels[(labels >= 0) & (labels < size)], minlength=size)
    return torch.from_numpy(counts / counts.sum()) if counts.sum() else equal
