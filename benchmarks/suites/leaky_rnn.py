"""The recurrence: forward, backward through a sum, adjoints of all outputs."""

from __future__ import annotations

from typing import Any

from .cases import RHO, SHAPES, draw
from .measure import Timed, device


class LeakyRNN(Timed):
    """`leaky_rnn` of a pack, and the adjoints of one network."""

    param_names = ("shape", "networks", "device")
    params = (("2AF", "sMNIST"), (1, 10), ("cpu", "cuda"))

    def setup(self, name: str, R: int, where: str) -> None:
        """Weights, inputs and, for the adjoints, rates."""
        from hpr_kernels import leaky_rnn

        given = draw(SHAPES[name], device(where), R)
        self.x, self.W, self.U, self.w = (
            given[name] for name in ("x1", "recurrent", "input", "readout")
        )
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
        """Adjoints of the outputs that the kernel's rows read."""
        from hpr_kernels import leaky_rnn_adjoints

        leaky_rnn_adjoints(
            self.rates,
            recurrent=self.W,
            readout=self.w,
            rho=RHO,
            outputs=SHAPES[name].outputs,
        )
