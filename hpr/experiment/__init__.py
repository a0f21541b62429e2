"""What a run is, what it costs, where its record is kept, and how runs are carried out."""

from hpr.experiment.binding import bind
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store

__all__ = ["RunSpec", "Store", "bind"]
