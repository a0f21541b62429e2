"""The leaky recurrence over a pack: rates, gradients, per-output adjoints; the weights of `torch.nn.RNN` for it."""

from hpr_kernels.recurrence.nn_rnn import from_rnn
from hpr_kernels.recurrence.op import leaky_rnn, leaky_rnn_adjoints, leaky_rnn_trace

__all__ = ["from_rnn", "leaky_rnn", "leaky_rnn_adjoints", "leaky_rnn_trace"]
