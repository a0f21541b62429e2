"""Exact neural tangent kernels: of leaky recurrent networks, of two-layer networks, and of any module."""

from hpr_kernels.ntk.leaky_rnn import leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.ntk.module import ntk
from hpr_kernels.ntk.two_layer import two_layer_ntk

__all__ = ["leaky_rnn_kernel_alignment", "leaky_rnn_ntk", "ntk", "two_layer_ntk"]
