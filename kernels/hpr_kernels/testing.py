"""For tests, this project's and an importer's: random networks, shape tables, comparison in norm."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hpr_kernels.autocast import outside_autocast

__all__ = [
    "EXAMPLES",
    "HIDDEN",
    "OUTPUTS",
    "STEPS",
    "Network",
    "assert_close",
    "random_network",
    "relative_error",
]

# Odd on purpose: 1, one above a power of two, the EM column's 198 cells, the paper's 300.
HIDDEN = (1, 33, 198, 300)
EXAMPLES = (1, 5)
STEPS = (1, 2, 8, 28)
OUTPUTS = (1, 3, 10)


class Network(NamedTuple):
    """Inputs and weights of a leaky recurrent network, plain or packed."""

    x: Tensor
    recurrent: Tensor
    input: Tensor
    readout: Tensor


@outside_autocast
def random_network(
    generator: torch.Generator,
    *,
    N: int,
    T: int,
    B: int,
    N_in: int = 3,
    N_out: int = 3,
    R: int | None = None,
    dtype: torch.dtype = torch.float64,
) -> Network:
    """A network of gain 1.5, with R networks in front where R is given."""
    pack = () if R is None else (R,)

    def normal(*shape: int) -> Tensor:
        # Where the generator draws, whatever torch's default device is.
        return torch.randn(
            *pack, *shape, generator=generator, dtype=torch.float64, device=generator.device
        )

    network = (
        normal(T, B, N_in),
        normal(N, N) * (1.5 / N**0.5),
        normal(N, N_in),
        normal(N_out, N) / N**0.5,
    )
    return Network(*(value.to(dtype) for value in network))


@outside_autocast
def relative_error(got: Tensor, expected: Tensor) -> float:
    """‖got - expected‖ / ‖expected‖ in fp64; the absolute error where the expected norm is zero."""
    if got.shape != expected.shape:
        raise AssertionError(f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    got, expected = got.detach().double(), expected.detach().double()
    size = float(expected.norm())
    return float((got - expected).norm()) / (size or 1.0)


@outside_autocast
def assert_close(got: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Fail where the relative error in norm exceeds `tolerance`, NaN included."""
    error = relative_error(got, expected)
    if not error <= tolerance:
        raise AssertionError(f"expected a relative error of at most {tolerance:g}, got {error:g}")
