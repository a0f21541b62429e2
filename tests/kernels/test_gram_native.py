"""The C kernel of the order "propagate": against fp64, and the same bits by every instruction set."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hpr_kernels import FactoredJacobian
from hpr_kernels.backend import VARIABLE
from hpr_kernels.gram import dispatch, eager, native
from hpr_kernels.gram.factors import Factors
from hpr_kernels.native import library

F64 = torch.float64
pytestmark = pytest.mark.skipif(bool(library.obstacle()), reason=library.obstacle() or "-")


def factors(B: int, O: int, S: int, N: int, F: int, reach: tuple[int, ...], seed: int) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(1, B, O, S, N, generator=generator, dtype=F64)
    for o, last in enumerate(reach):
        g[:, :, o, last + 1 :] = 0
    return Factors(g, torch.randn(1, B, S, F, generator=generator, dtype=F64), (reach,))


def exact(left: Factors, right: Factors) -> Tensor:
    return torch.einsum("bosn,cptn,bsf,ctf->bocp", left.g[0], right.g[0], left.z[0], right.z[0])


def single(value: Factors) -> Factors:
    return Factors(value.g.float(), value.z.float(), value.reach)


def close(K: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((K - expected).norm()) <= tolerance * float(expected.norm())


@given(st.integers(1, 40), st.integers(1, 37), st.sampled_from([torch.float32, F64]))
def test_mirror(B: int, O: int, dtype: torch.dtype) -> None:
    K = torch.randn(B, O, B, O, dtype=dtype)
    wanted = K.clone()
    eager.mirror(wanted)
    native.mirror(K)
    assert torch.equal(K, wanted)
    assert torch.equal(K, K.permute(2, 3, 0, 1))


@st.composite
def sides(draw: st.DrawFn) -> tuple[Factors, Factors | None]:
    N, F = draw(st.integers(1, 40)), draw(st.integers(1, 40))

    def side() -> Factors:
        B, O, S = draw(st.integers(1, 9)), draw(st.integers(1, 14)), draw(st.integers(1, 19))
        reach = sorted(draw(st.lists(st.integers(0, S - 1), min_size=O, max_size=O)))
        return factors(B, O, S, N, F, tuple(reach), draw(st.integers(0, 99)))

    left = side()
    return left, side() if draw(st.booleans()) else None


@given(drawn=sides(), add=st.booleans())
def test_equals_the_equation(drawn: tuple[Factors, Factors | None], add: bool) -> None:
    left, right = drawn
    expected = exact(left, right or left)
    K = torch.ones_like(expected)
    native.propagate(K, left, right or left, right is None, add)
    if right is None:
        # Only the pairs of examples b <= b' are computed.
        b, c = torch.triu_indices(len(K), len(K))
        K, expected = K[b, :, c], expected[b, :, c]
    close(K - float(add), expected, 1e-13)


@pytest.mark.parametrize(
    ("B", "O", "S", "N", "F"), [(5, 24, 8, 33, 7), (3, 10, 28, 50, 1), (2, 3, 64, 300, 31), (7, 1, 1, 17, 5),
     (4, 2, 1, 4096, 784), (2, 1, 1, 5, 4000), (2, 1, 500, 300, 320)],
)  # fmt: skip
def test_errs_at_most_twice_as_much_as_torch(B: int, O: int, S: int, N: int, F: int) -> None:
    reach = tuple(o * S // O for o in range(O)) if O > 1 else (S - 1,)
    given = factors(B, O, S, N, F, reach, 1)
    expected = exact(given, given).flatten(2).flatten(0, 1)
    J = FactoredJacobian(given.g[0].float(), given.z[0].float(), reach)
    errors = {}
    for name in ("native", "torch"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, name)
            errors[name] = float((J.gram(order="propagate").double() - expected).norm())
    assert 0 < errors["native"] <= 2 * errors["torch"]


def test_any_strides_and_nothing_beyond(rng: torch.Generator) -> None:
    """Views into larger tensors of NaN: none is read, and what is beside K stays."""
    B, O, S, N, F = 3, 5, 4, 19, 6
    g = torch.full((S, O + 1, B + 1, 2 * N), math.nan)[:, :O, :B, ::2]
    z = torch.full((S, B + 2, F + 3), math.nan)[:, :B, :F]
    for view in (g, z):
        view.copy_(torch.randn(view.shape, generator=rng))
    memory = torch.full((B + 1, O + 1, B + 1, O + 1), math.nan)
    K = memory[:B, :O, :B, :O]
    reach = (S - 1,) * O
    left = Factors(g.permute(2, 1, 0, 3)[None], z.transpose(0, 1)[None], (reach,))
    native.propagate(K, left, left, False, False)
    close(K, exact(left, left), 1e-6)
    K.fill_(math.nan)
    assert memory.isnan().all()


def test_same_bits_on_any_number_of_threads() -> None:
    given = single(factors(9, 6, 7, 33, 12, (6,) * 6, 2))
    kernels = []
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            kernels.append(dispatch.gram(
                given, None, reduce="full", order="propagate", memory_budget=1 << 28, precision="ieee"
            ))  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*kernels)


def digest() -> str:
    """A hash of kernels of several shapes, types and reductions."""
    found = hashlib.sha256()
    for B, O, S, N, F in (
        (5, 7, 9, 33, 12),
        (3, 1, 28, 20, 5),
        (4, 24, 8, 50, 3),
        (6, 10, 1, 64, 40),
    ):
        reach = tuple(o * S // O for o in range(O)) if O > 1 else (S - 1,)
        given = factors(B, O, S, N, F, reach, 3)
        for value in (given, single(given)):
            K = value.z.new_zeros(B, O, B, O)
            native.propagate(K, value, value, False, False)
            found.update(K.numpy().tobytes())
    return found.hexdigest()


def instruction_sets() -> list[str]:
    """Those that this CPU can run."""
    order = ["baseline", "avx2", "avx512"]
    best = library.isa()
    return order[: order.index(best) + 1] if best in order else [best]


@pytest.mark.parametrize("isa", instruction_sets())
def test_same_bits_of_every_instruction_set(isa: str) -> None:
    environment = {**os.environ, library.VARIABLE: isa}
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest()


def test_an_unknown_instruction_set_is_named() -> None:
    code = "from hpr_kernels.native.library import isa; isa()"
    environment = {**os.environ, library.VARIABLE: "mmx"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "HPR_KERNELS_ISA: expected an instruction set of this build, got mmx" in done.stderr


if __name__ == "__main__":
    print(digest())
