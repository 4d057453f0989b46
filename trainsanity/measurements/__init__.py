"""The expensive looks at a pipeline, each taken once and shared by every check that asks.

One module per look.  None imports torch when it is imported: the catalogue is cheap to list.
"""

from . import batch, forward, padding, schedule, singles, special_tokens, trainer_step
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
    "schedule",
    "singles",
    "special_tokens",
    "trainer_step",
]
