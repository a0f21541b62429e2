"""Trials of few seeds handed to the many networks of a pack, into the buffers that training reads."""

from hpr_kernels.trials.op import place_trials

__all__ = ["place_trials"]
