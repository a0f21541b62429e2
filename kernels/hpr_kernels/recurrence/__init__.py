"""The leaky recurrence over a pack: rates, gradients, per-output adjoints."""

from hpr_kernels.recurrence.op import leaky_rnn, leaky_rnn_adjoints, leaky_rnn_trace

__all__ = ["leaky_rnn", "leaky_rnn_adjoints", "leaky_rnn_trace"]
