"""Tests of the recurrence's Triton kernels against the fp64 reference and, compiled, against budgets.

See triton_support.py for the two test processes. The interpreter is slow, so `CASES` covers each size
of N, B, T, R and each activation with each kernel, not their product.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from triton_support import Guarded, assert_budget, on_each_device

from hpr_kernels import layout, leaky_rnn, leaky_rnn_adjoints, leaky_rnn_ntk
from hpr_kernels.backend import PRECISIONS, uses_triton
from hpr_kernels.compiled import CAPABILITIES, SHARED_LIMIT, Specimen, compile_for
from hpr_kernels.recurrence import eager, reference
from hpr_kernels.testing import Network, assert_close, random_network, relative_error

pytest.importorskip("triton")


def rates_of(x: Tensor, recurrent: Tensor, input: Tensor, rho: float = 0.367) -> Tensor:
    """`leaky_rnn` with positional weights, like the reference."""
    return leaky_rnn(x, recurrent=recurrent, input=input, rho=rho)


class Case(NamedTuple):
    R: int
    N: int
    B: int
    T: int
    N_in: int
    activation: str
    rho: float


CASES = [
    Case(R=1, N=1, B=1, T=1, N_in=3, activation="relu", rho=0.367),
    Case(R=3, N=33, B=33, T=8, N_in=3, activation="relu", rho=0.367),
    Case(R=3, N=1, B=33, T=8, N_in=1, activation="linear", rho=0.9),
    Case(R=1, N=198, B=1, T=8, N_in=28, activation="linear", rho=0.367),
    Case(R=1, N=300, B=33, T=3, N_in=28, activation="relu", rho=0.0),
    Case(R=1, N=1, B=1, T=1, N_in=3, activation="tanh", rho=0.367),
    Case(R=2, N=66, B=17, T=5, N_in=4, activation="tanh", rho=0.0),
    Case(R=2, N=33, B=5, T=4, N_in=3, activation="tanh", rho=0.9),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.R}x{c.N}-B{c.B}-T{c.T}")


def networks(rng: torch.Generator, case: Case, device: str) -> tuple[Network, Network]:
    """The same network in fp64 on the CPU and in fp32 on `device`."""
    exact = random_network(rng, R=case.R, N=case.N, B=case.B, T=case.T, N_in=case.N_in)
    single = Network(*(value.float() for value in exact))
    # Both networks have the rounded numbers, so that the error is the kernel's own rounding.
    exact = Network(*(value.double() for value in single))
    return exact, Network(*(value.to(device) for value in single))


def assert_as_good_as_torch(got: Tensor, exact: Tensor, torch_fp32: Tensor) -> None:
    """Check that the error is at most twice that of torch's own fp32, or of one rounding."""
    theirs = max(relative_error(torch_fp32.cpu(), exact), torch.finfo(torch.float32).eps)
    assert_close(got.cpu(), exact, 2 * theirs)


def filled_trace(net: Network, case: Case, rates: Tensor | None = None) -> Guarded:
    """A trace that holds the inputs, and the rates if given; else NaN in their place."""
    R, T, B, N_in = net.x.shape
    trace = Guarded(R, T + 1, B, layout.padded(case.N + N_in), device=str(net.x.device))
    z = trace.tensor
    z[:, :, :, case.N :] = 0
    z[:, :T, :, case.N : case.N + N_in] = net.x
    z[:, 0, :, : case.N] = 0
    if rates is not None:
        z[:, 1:, :, : case.N] = rates
    return trace


@on_each_device
@every_case
def test_forward(rng: torch.Generator, case: Case, device: str) -> None:
    from hpr_kernels.recurrence import triton

    exact, net = networks(rng, case, device)
    trace = filled_trace(net, case)
    before = trace.tensor.clone()
    potentials = Guarded(case.R, case.B, layout.padded(case.N), device=device)
    weights = layout.join(net.recurrent, net.input)
    triton.forward(trace.tensor, weights, case.rho, case.activation, "ieee", potentials.tensor)
    rates = trace.tensor[:, 1:, :, : case.N]
    assert_as_good_as_torch(
        rates,
        reference.leaky_rnn(*exact[:3], case.rho, case.activation),
        reference.leaky_rnn(*net[:3], case.rho, case.activation),
    )
    trace.check()
    potentials.check()
    assert torch.equal(trace.tensor[:, 0], before[:, 0])
    assert torch.equal(trace.tensor[..., case.N :], before[..., case.N :])


@on_each_device
@every_case
def test_backward(rng: torch.Generator, case: Case, device: str) -> None:
    from hpr_kernels.recurrence import triton

    exact, net = networks(rng, case, device)
    rates = reference.leaky_rnn(*net[:3], case.rho, case.activation)
    seeds = torch.randn(rates.shape, generator=rng)
    g = Guarded(case.R, case.T, case.B, layout.padded(case.N), device=device)
    g.tensor[..., : case.N] = seeds
    trace = filled_trace(net, case, rates)
    triton.sweep(
        g.tensor,
        trace.tensor,
        layout.join(net.recurrent, net.input),
        case.rho,
        case.activation,
        "ieee",
    )
    wanted = []
    for dtype in (torch.float64, torch.float32):
        wanted.append(seeds.to(dtype))
        z = torch.nn.functional.pad(rates.cpu().to(dtype), (0, 0, 0, 0, 1, 0))
        eager.sweep(wanted[-1], z, exact.recurrent.to(dtype), case.rho, case.activation)
    assert_as_good_as_torch(g.tensor[..., : case.N], *wanted)
    g.check()
    trace.check()
    assert not g.tensor[..., case.N :].any()


@on_each_device
@every_case
def test_adjoints(rng: torch.Generator, case: Case, device: str) -> None:
    from hpr_kernels.recurrence import triton

    exact, net = networks(rng, case, device)
    rates = reference.leaky_rnn(*net[:3], case.rho, case.activation)
    steps = tuple(sorted({0, case.T // 2, case.T - 1}))
    trace = filled_trace(net, case, rates)
    g = triton.adjoints(
        trace.tensor,
        layout.join(net.recurrent, net.input),
        net.readout,
        case.rho,
        steps,
        case.activation,
        "ieee",
    )
    options = (case.rho, steps, case.activation)
    assert_as_good_as_torch(
        g.permute(0, 3, 2, 1, 4),
        reference.adjoints(rates.cpu().double(), exact.recurrent, exact.readout, *options),
        reference.adjoints(rates, net.recurrent, net.readout, *options),
    )
    trace.check()


@on_each_device
def test_gradients(rng: torch.Generator, device: str) -> None:
    """The public function with its autograd: a plain network, one input for a pack, and `torch.func`."""
    exact, net = networks(rng, CASES[1], device)
    assert uses_triton(net.x)

    def gradients(rnn: object, *leaves: Tensor) -> tuple[Tensor, ...]:
        def loss(*leaves: Tensor) -> Tensor:
            return rnn(*leaves, 0.367).square().sum()  # type: ignore[operator]

        return torch.func.grad(loss, argnums=(0, 1, 2))(*leaves)

    leaves = [value.clone().requires_grad_() for value in net[:3]]
    rates_of(*leaves).square().sum().backward()
    for leaf, by_func, wanted, theirs in zip(
        leaves,
        gradients(rates_of, *net[:3]),
        gradients(reference.leaky_rnn, *exact[:3]),
        gradients(reference.leaky_rnn, *net[:3]),
        strict=True,
    ):
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, by_func)
        assert_as_good_as_torch(leaf.grad, wanted, theirs)


@on_each_device
def test_pack_is_its_networks(rng: torch.Generator, device: str) -> None:
    """A result has the same bits each time, and does not depend on the other networks of the pack."""
    _, net = networks(rng, CASES[1], device)
    options = {"recurrent": net.recurrent, "readout": net.readout, "rho": 0.367}
    rates = rates_of(*net[:3])
    adjoints = leaky_rnn_adjoints(rates, outputs=[2, 5], **options)
    assert torch.equal(rates_of(*net[:3]), rates)
    for r in range(CASES[1].R):
        x, recurrent, input, readout = (value[r] for value in net)
        alone = rates_of(x, recurrent, input)
        assert torch.equal(alone, rates[r])
        options = {"recurrent": recurrent, "readout": readout, "rho": 0.367}
        assert torch.equal(leaky_rnn_adjoints(alone, outputs=[2, 5], **options), adjoints[r])


@on_each_device
def test_nan_is_not_lost(rng: torch.Generator, device: str) -> None:
    """The rates of a diverged example are NaN, and no other rates are."""
    _, net = networks(rng, CASES[1], device)
    net.x[0, 2, 5] = torch.nan
    dead = rates_of(*net[:3]).isnan()
    expected = torch.zeros_like(dead)
    expected[0, 2:, 5] = True
    assert torch.equal(dead, expected)


@on_each_device
def test_kernel_of_a_network(rng: torch.Generator, device: str) -> None:
    """`leaky_rnn_ntk` calls these kernels and agrees with its own fp64 result."""
    exact, net = networks(rng, CASES[3], device)

    def kernel(net: Network) -> Tensor:
        weights = {"recurrent": net.recurrent, "input": net.input, "readout": net.readout}
        return leaky_rnn_ntk(net.x, **weights, rho=0.367, outputs="last")

    theirs = kernel(Network(*(value.float() for value in exact)))
    assert_as_good_as_torch(kernel(net), kernel(exact), theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_on_a_card(
    rng: torch.Generator, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error is at most twice that of torch, in TF32 for `tf32` and in fp32 for the other precisions."""
    exact, net = networks(rng, CASES[4], "cuda")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", precision == "tf32")
    assert_as_good_as_torch(
        leaky_rnn(net.x, recurrent=net.recurrent, input=net.input, rho=0.367, precision=precision),
        reference.leaky_rnn(*exact[:3], 0.367),
        reference.leaky_rnn(*net[:3], 0.367),
    )


def paper_specimens() -> list[Specimen]:
    """All sizes at the default precision, and the first size at tf32 and with tanh too."""
    from hpr_kernels.compiled import PAPER_SIZES
    from hpr_kernels.recurrence.triton import specimens

    first = len(specimens()) // len(PAPER_SIZES)
    tanh = [
        replace(specimen, arguments={**specimen.arguments, "ACTIVATION": "tanh"})
        for specimen in specimens()[:first]
    ]
    return specimens() + specimens("tf32")[:first] + tanh


def specimen_id(specimen: Specimen) -> str:
    return f"{specimen.name}, {specimen.arguments['PRECISION']}, {specimen.arguments['ACTIVATION']}"


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("specimen", paper_specimens(), ids=specimen_id)
def test_compiled_budget(specimen: Specimen, capability: int) -> None:
    compiled = compile_for(specimen, capability)
    # The adjoints load their own step, one number, and per output one row of the readout, few numbers per thread.
    assert_budget(compiled, narrow_loads=3 if "adjoints" in specimen.name else 0)
    # Tiles of 16 or 32 rows are too small for HGMMA or UTCHMMA, so that every card uses HMMA.
    assert compiled.tensor_core == compiled.count("HMMA") > 0


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.emulated(80))])
def test_truncating_tensor_cores_lose_nothing(rng: torch.Generator, capability: int) -> None:
    """At tf32x3 rates stay as good as torch's where tensor cores truncate, since no long sum is theirs."""
    from hpr_kernels.recurrence import triton

    case = Case(R=1, N=300, B=16, T=8, N_in=28, activation="relu", rho=0.367)
    exact, net = networks(rng, case, "cpu")
    trace = filled_trace(net, case).tensor
    triton.forward(
        trace, layout.join(net.recurrent, net.input), case.rho, case.activation, "tf32x3"
    )
    assert_as_good_as_torch(
        trace[:, 1:, :, : case.N],
        reference.leaky_rnn(*exact[:3], case.rho, case.activation),
        reference.leaky_rnn(*net[:3], case.rho, case.activation),
    )


REGISTERS = 1 << 16  # of a multiprocessor
# Cycles of a tile on 9.0 at tf32x3. With one accumulator for all three products they were 565, 1135 and 978.
TILE_CYCLES = {"forward": 420, "backward": 900, "adjoints": 720}


@pytest.mark.parametrize("launch", TILE_CYCLES)
def test_the_products_of_a_tile_do_not_wait_for_each_other(launch: str) -> None:
    """The compiler's stalls of a tile on 9.0, and two blocks fit into a multiprocessor."""
    [specimen] = [one for one in paper_specimens()[:3] if launch in one.name]
    compiled = compile_for(specimen, 90)
    assert specimen.arguments["PRECISION"] == "tf32x3"
    assert 0 < compiled.tile_cycles <= TILE_CYCLES[launch]
    assert 2 * 32 * specimen.num_warps * compiled.registers <= REGISTERS
    assert 2 * compiled.shared <= SHARED_LIMIT[90]


@pytest.mark.parametrize("specimen", paper_specimens()[:3], ids=specimen_id)
def test_sizes_of_one_compile(specimen: Specimen) -> None:
    """A launch makes a constant of an argument of 1, whose type rules differ; the interpreter does not show this."""
    ones = dict.fromkeys(set(specimen.arguments) & {"T", "B", "N", "O", "N_out"}, 1)
    compile_for(replace(specimen, arguments={**specimen.arguments, **ones, "P": 16}), 90)


def test_padding_is_what_widens_loads() -> None:
    """Rows of a length that 16 does not divide are loaded number by number, which breaks the budget."""
    specimen = paper_specimens()[0]
    compiled = compile_for(replace(specimen, arguments={**specimen.arguments, "P": 303}), 90)
    assert compiled.global_loads()[32] > compiled.global_loads().get(128, 0)
