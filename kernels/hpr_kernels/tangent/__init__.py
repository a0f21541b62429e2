"""Exact neural tangent kernels: of leaky recurrent networks, of two-layer networks, and of any module."""

from hpr_kernels.tangent.alignment import leaky_rnn_kernel_alignment
from hpr_kernels.tangent.kernel import leaky_rnn_ntk
from hpr_kernels.tangent.module import ntk
from hpr_kernels.tangent.two_layer import two_layer_ntk

__all__ = ["leaky_rnn_kernel_alignment", "leaky_rnn_ntk", "ntk", "two_layer_ntk"]
