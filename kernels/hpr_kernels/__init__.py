"""Fused kernels for recurrent networks and their exact neural tangent kernels; needs torch alone."""

from hpr_kernels.gram import FactoredJacobian
from hpr_kernels.recurrence import from_rnn, leaky_rnn, leaky_rnn_adjoints
from hpr_kernels.tangent import (
    NTKOperator,
    leaky_rnn_kernel_alignment,
    leaky_rnn_ntk,
    leaky_rnn_ntk_operator,
    linearize,
    ntk,
    ntk_alignment,
    ntk_operator,
    ntk_plan,
    predict_mse,
    two_layer_ntk,
)

__version__ = "0.2.0.dev0"

__all__ = [
    "FactoredJacobian",
    "NTKOperator",
    "from_rnn",
    "leaky_rnn",
    "leaky_rnn_adjoints",
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
