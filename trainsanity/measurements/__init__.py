"""The expensive looks at a pipeline, each taken once and shared by every check that asks.

One module per look.  None imports torch when it is imported: the catalogue is cheap to list.
"""

from . import (
    batch,
    economics,
    evaluation,
    forward,
    origin,
    padding,
    recording,
    replay,
    retokenized,
    scan,
    scan_repeats,
    schedule,
    singles,
    special_tokens,
    supervision,
)
from .store import Measurement, MeasurementError, Measurements, catalogue, measurement

__all__ = [
    "Measurement",
    "MeasurementError",
    "Measurements",
    "batch",
    "catalogue",
    "economics",
    "evaluation",
    "forward",
    "measurement",
    "origin",
    "padding",
    "recording",
    "replay",
    "retokenized",
    "scan",
    "scan_repeats",
    "schedule",
    "singles",
    "special_tokens",
    "supervision",
]
