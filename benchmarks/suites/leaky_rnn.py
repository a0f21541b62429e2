"""The recurrence: forward, backward from a sum of rates, and adjoints of all outputs."""

from __future__ import annotations

from typing import Any

from .cases import RHO, SHAPES, draw_network
from .measure import Timed, device


class LeakyRNN(Timed):
    """`leaky_rnn` and `leaky_rnn_adjoints` of a pack of R networks."""

    param_names = ("shape", "networks", "device")
    params = (("2AF", "sMNIST"), (1, 10), ("cpu", "cuda"))

    def setup(self, name: str, R: int, where: str) -> None:
        """Draw weights and inputs, and compute the rates that the adjoints need."""
        from hpr_kernels import leaky_rnn

        self.x, self.W, self.U, self.w = draw_network(SHAPES[name], device(where), R)
        self.rates = leaky_rnn(self.x, recurrent=self.W, input=self.U, rho=RHO)

    def time_forward(self, *_: Any) -> None:
        """Rates of all steps."""
        from hpr_kernels import leaky_rnn

        leaky_rnn(self.x, recurrent=self.W, input=self.U, rho=RHO)

    def time_forward_and_backward(self, *_: Any) -> None:
        """Rates, and the gradient of their sum."""
        from hpr_kernels import leaky_rnn

        W, U = (weight.detach().requires_grad_() for weight in (self.W, self.U))
        leaky_rnn(self.x, recurrent=W, input=U, rho=RHO).sum().backward()

    def time_adjoints(self, name: str, *_: Any) -> None:
        """Adjoints of the outputs that are the kernel's rows."""
        from hpr_kernels import leaky_rnn_adjoints

        leaky_rnn_adjoints(
            self.rates,
            recurrent=self.W,
            readout=self.w,
            rho=RHO,
            outputs=SHAPES[name].outputs,
        )
