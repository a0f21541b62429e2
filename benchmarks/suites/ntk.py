"""The exact NTK: by order of contraction, at the paper's shapes, its alignment, of two layers and of any module."""

from __future__ import annotations

from typing import Any

from .calls import ntk_call
from .cases import RHO, SHAPES, draw_network
from .measure import Timed, device


class Gram(Timed):
    """One network's kernel by each order of contraction."""

    param_names = ("shape", "order", "device")
    params = (("2AF", "B = 50"), ("hadamard", "propagate", "dense"), ("cpu", "cuda"))

    def setup(self, name: str, order: str, where: str) -> None:
        """Make the call."""
        self.call = ntk_call(SHAPES[name], device(where), order=order)

    def time_gram(self, *_: Any) -> None:
        """K of all parameters."""
        self.call()


class NTK(Timed):
    """One network's kernel by the order that the plan chooses."""

    param_names = ("shape", "device")
    params = (("2AF", "sMNIST"), ("cpu", "cuda"))

    def setup(self, name: str, where: str) -> None:
        """Make the call."""
        self.call = ntk_call(SHAPES[name], device(where))

    def time_ntk(self, *_: Any) -> None:
        """K of all parameters."""
        self.call()


class Alignment(Timed):
    """The alignment of two networks' kernels by tiles, without either whole kernel."""

    param_names = ("device",)
    params = (("cpu", "cuda"),)

    def setup(self, where: str) -> None:
        """Draw two networks."""
        pack = draw_network(SHAPES["2AF"], device(where), R=2)
        self.x = pack.x[0]
        self.before, self.after = (
            {"recurrent": pack.recurrent[r], "input": pack.input[r], "readout": pack.readout[r]}
            for r in (0, 1)
        )

    def time_alignment(self, *_: Any) -> None:
        """Tr(K_f K_0) / (‖K_f‖ ‖K_0‖) of 768 rows."""
        from hpr_kernels import leaky_rnn_kernel_alignment

        leaky_rnn_kernel_alignment(self.x, before=self.before, after=self.after, rho=RHO)


class OtherModels(Timed):
    """A two-layer network, and a module for which there is no fused kernel."""

    param_names = ("device",)
    params = (("cpu", "cuda"),)

    def setup(self, where: str) -> None:
        """Draw weights and inputs."""
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
