"""Exact neural tangent kernels: of leaky recurrent networks, of two-layer networks, and of any module."""

from hpr_kernels.tangent.alignment import leaky_rnn_kernel_alignment
from hpr_kernels.tangent.kernel import leaky_rnn_ntk
from hpr_kernels.tangent.linear_operator import NTKOperator
from hpr_kernels.tangent.linearized import linearize
from hpr_kernels.tangent.module import ntk
from hpr_kernels.tangent.module_alignment import ntk_alignment
from hpr_kernels.tangent.module_operator import ntk_operator
from hpr_kernels.tangent.module_plan import ntk_plan
from hpr_kernels.tangent.network_operator import leaky_rnn_ntk_operator
from hpr_kernels.tangent.prediction import predict_mse
from hpr_kernels.tangent.two_layer import two_layer_ntk

__all__ = [
    "NTKOperator",
    "leaky_rnn_kernel_alignment",
    "leaky_rnn_ntk",
    "leaky_rnn_ntk_operator",
    "linearize",
    "ntk",
    "ntk_alignment",
    "ntk_operator",
    "ntk_plan",
    "predict_mse",
    "two_layer_ntk",
]
