"""Copies the trials of a few seeds into the buffers of the many networks of a pack."""

from hpr_kernels.trials.op import place_trials

__all__ = ["place_trials"]
