"""Tools for tests, in this project and in others: random networks, tables of shapes, comparison in norm."""

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

# Sizes that are awkward for tiles: 1, one above a power of two, the EM column's 198 cells, the paper's 300.
HIDDEN = (1, 33, 198, 300)
EXAMPLES = (1, 5)
STEPS = (1, 2, 8, 28)
OUTPUTS = (1, 3, 10)


class Network(NamedTuple):
    """Inputs and weights of one leaky recurrent network, or of a pack of them."""

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
    """A random network of gain 1.5, or a pack of R of them if R is given."""
    pack = () if R is None else (R,)

    def normal(*shape: int) -> Tensor:
        # The numbers are drawn on the generator's device, not on torch's default device.
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
    """‖got - expected‖ / ‖expected‖ in fp64; the absolute error if the expected norm is zero."""
    if got.shape != expected.shape:
        raise AssertionError(f"expected shape {list(expected.shape)}, got {list(got.shape)}")
    got, expected = got.detach().double(), expected.detach().double()
    size = float(expected.norm())
    return float((got - expected).norm()) / (size or 1.0)


@outside_autocast
def assert_close(got: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Raise an AssertionError if the relative error in norm exceeds `tolerance` or is NaN."""
    error = relative_error(got, expected)
    if not error <= tolerance:
        raise AssertionError(f"expected a relative error of at most {tolerance:g}, got {error:g}")
