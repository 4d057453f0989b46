"""The expensive looks at a pipeline, each taken once and shared by every check that asks.

One module per look.  None imports torch when it is imported: the catalogue is cheap to list.
"""

from . import batch, forward, padding, recording, schedule, singles, special_tokens
from .store import Measurement, MeasurementError, Measurements, catalogue, measurement

__all__ = [
    "Measurement",
    "MeasurementError",
    "Measurements",
    "batch",
    "catalogue",
    "forward",
    "measurement",
    "padding",
    "recording",
    "schedule",
    "singles",
    "special_tokens",
]
