"""Exact Gram matrices of Jacobians that are kept as sums of outer products."""

from hpr_kernels.gram.op import FactoredJacobian
from hpr_kernels.gram.plan import MEMORY_BUDGET, ContractionPlan

__all__ = ["MEMORY_BUDGET", "ContractionPlan", "FactoredJacobian"]
