"""The exact NTK: by order, at the paper's shapes, its alignment, of two layers and of any module."""

from __future__ import annotations

from typing import Any

from .cases import RHO, SHAPES, Shape, draw, kernel
from .measure import Timed, device

ORDERED = {"2AF": SHAPES["2AF"], "B = 50": Shape(28, 50, 28, 10, "last")}


class Gram(Timed):
    """One network's kernel by each order of contraction."""

    param_names = ("shape", "order", "device")
    params = (tuple(ORDERED), ("hadamard", "propagate", "dense"), ("cpu", "cuda"))

    def setup(self, name: str, order: str, where: str) -> None:
        """The call."""
        self.call = kernel(ORDERED[name], device(where), order=order)

    def time_gram(self, *_: Any) -> None:
        """K of all parameters."""
        self.call()


class NTK(Timed):
    """One network's kernel as planned."""

    param_names = ("shape", "device")
    params = (("2AF", "sMNIST"), ("cpu", "cuda"))

    def setup(self, name: str, where: str) -> None:
        """The call."""
        self.call = kernel(SHAPES[name], device(where))

    def time_ntk(self, *_: Any) -> None:
        """K of all parameters."""
        self.call()


class Alignment(Timed):
    """The streamed alignment of two networks' kernels, neither of which is ever whole."""

    param_names = ("device",)
    params = (("cpu", "cuda"),)

    def setup(self, where: str) -> None:
        """Two networks."""
        weights = draw(SHAPES["2AF"], device(where), 2)
        self.x = weights["x1"][0]
        self.before, self.after = (
            {name: weights[name][r] for name in ("recurrent", "input", "readout")} for r in (0, 1)
        )

    def time_alignment(self, *_: Any) -> None:
        """Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) of 768 rows."""
        from hpr_kernels import leaky_rnn_kernel_alignment

        leaky_rnn_kernel_alignment(self.x, before=self.before, after=self.after, rho=RHO)


class OtherModels(Timed):
    """A two-layer network, and a module that no kernel knows."""

    param_names = ("device",)
    params = (("cpu", "cuda"),)

    def setup(self, where: str) -> None:
        """Weights and inputs."""
        import torch

        rng = torch.Generator().manual_seed(0)
        here = device(where)
        self.x, self.hidden, self.readout = (
            torch.randn(*size, generator=rng).to(here)
            for size in ((200, 784), (300, 784), (10, 300))
        )
        self.module = torch.nn.Sequential(
            torch.nn.Linear(784, 30), torch.nn.Tanh(), torch.nn.Linear(30, 3)
        ).to(here)

    def time_two_layer(self, *_: Any) -> None:
        """ReLU, 784-300-10, 200 examples."""
        from hpr_kernels import two_layer_ntk

        two_layer_ntk(self.x, hidden=self.hidden, readout=self.readout, activation="relu")

    def time_module(self, *_: Any) -> None:
        """Through torch.func, 64 examples."""
        from hpr_kernels import ntk

        ntk(self.module, self.x[:64])
