"""Sweeps of one's own: runs over the product of several values of any fields, as a table and a picture."""

from hpr.sweeps.outcome import SweepResult
from hpr.sweeps.sweeping import run_sweep

__all__ = ["SweepResult", "run_sweep"]
