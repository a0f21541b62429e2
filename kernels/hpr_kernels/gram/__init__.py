"""Exact Gram matrices of Jacobians that are kept as sums of outer products."""

from hpr_kernels.gram.contraction_plan import MEMORY_BUDGET, ContractionPlan
from hpr_kernels.gram.op import FactoredJacobian

__all__ = ["MEMORY_BUDGET", "ContractionPlan", "FactoredJacobian"]
