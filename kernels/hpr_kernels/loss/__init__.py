"""Cross-entropy of a linear readout: loss, accuracy, and the gradients that training needs."""

from hpr_kernels.loss.op import readout_cross_entropy

__all__ = ["readout_cross_entropy"]
