"""Weight gradient and momentum step in one: no gradient array in memory."""

from hpr_kernels.update.op import momentum_step

__all__ = ["momentum_step"]
