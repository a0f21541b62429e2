"""Losses of a linear readout, cross-entropy and squared error, and the gradients that training needs."""

from hpr_kernels.loss.op import readout_cross_entropy, readout_squared_error

__all__ = ["readout_cross_entropy", "readout_squared_error"]
