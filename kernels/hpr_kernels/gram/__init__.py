"""Exact Gram matrices of Jacobians that are kept as sums of outer products."""

from hpr_kernels.gram.op import REDUCTIONS, FactoredJacobian
from hpr_kernels.gram.plan import MEMORY_BUDGET, Plan

__all__ = ["MEMORY_BUDGET", "REDUCTIONS", "FactoredJacobian", "Plan"]
