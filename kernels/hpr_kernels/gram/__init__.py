"""Exact Gram matrices of Jacobians that are kept as sums of outer products."""

from hpr_kernels.gram.op import FactoredJacobian

__all__ = ["FactoredJacobian"]
