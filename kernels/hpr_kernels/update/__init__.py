"""Weight gradient and momentum step in one, without a gradient array in memory."""

from hpr_kernels.update.op import momentum_step
from hpr_kernels.update.reference import Constraint

__all__ = ["Constraint", "momentum_step"]
