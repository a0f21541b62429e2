"""The Triton kernels of the contractions against the fp64 reference, and their compiled programs (triton_support.py).

The interpreter is slow, so `CASES` has each size of N, B, S, R and O with each kernel, but not all combinations.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_support import Guarded, assert_budget, on_each_device

from hpr_kernels import FactoredJacobian, leaky_rnn_kernel_alignment, leaky_rnn_ntk
from hpr_kernels.backend import DEFAULT_PRECISION
from hpr_kernels.checks import PRECISIONS, Precision
from hpr_kernels.compiled import CAPABILITIES, Specimen, compile_for
from hpr_kernels.gram import reference
from hpr_kernels.gram.factors import Factors
from hpr_kernels.tangent.block import JacobianBlock
from hpr_kernels.testing import assert_close, random_network, relative_error

pytest.importorskip("triton")

RHO = 0.367
ORDERS = ("hadamard", "dense")
every_order = pytest.mark.parametrize("order", ORDERS)


class Case(NamedTuple):
    """A Jacobian of O outputs, of which the last reaches all S steps."""

    R: int
    B: int
    O: int
    S: int
    N: int
    F: int
    B2: int  # examples of a second Jacobian


CASES = [
    Case(R=1, B=1, O=1, S=1, N=1, F=1, B2=2),
    Case(R=3, B=33, O=3, S=2, N=33, F=5, B2=1),
    Case(R=1, B=1, O=6, S=8, N=198, F=9, B2=3),
    Case(R=1, B=33, O=2, S=1, N=300, F=31, B2=4),
    # Already aligned, so the kernels read the caller's memory.
    Case(R=2, B=32, O=4, S=3, N=36, F=8, B2=8),
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.R}x{c.N}-B{c.B}-S{c.S}-O{c.O}"
)


def reaches(case: Case) -> tuple[int, ...]:
    """Ascending, from the first step to the last."""
    return tuple(max(0, (o + 1) * case.S // case.O - 1) for o in range(case.O))


def adjoints(rng: torch.Generator, case: Case, B: int) -> Tensor:
    g = torch.randn(case.R, B, case.O, case.S, case.N, generator=rng)
    for o, last in enumerate(reaches(case)):
        g[:, :, o, last + 1 :] = 0
    return g


def jacobian(rng: torch.Generator, case: Case, B: int, device: str) -> FactoredJacobian:
    """A Jacobian whose adjoints are stored output-major, as by the recurrence, between two bands of NaN."""
    g = adjoints(rng, case, B)
    stored = Guarded(case.R, case.S, case.O, B, case.N, device=device).tensor.permute(0, 3, 2, 1, 4)
    stored.copy_(g)
    z = Guarded(case.R, B, case.S, case.F, device=device).tensor
    z.copy_(torch.randn(z.shape, generator=rng))
    return FactoredJacobian(stored, z, reaches(case))


def factors(J: FactoredJacobian) -> Factors:
    return Factors(J.adjoints, J.inputs, (J.reach,))


def exact(left: FactoredJacobian, right: FactoredJacobian | None) -> Tensor:
    """K by the reference in fp64, of the same fp32 numbers."""
    sides = (left, right or left)
    return reference.gram(*(v.double().cpu() for J in sides for v in (J.adjoints, J.inputs)))


def assert_as_good_as_torch(got: Tensor, expected: Tensor, single: Tensor) -> None:
    """The error is at most twice that of torch in fp32, or of one rounding."""
    theirs = max(relative_error(single.cpu(), expected), torch.finfo(torch.float32).eps)
    assert_close(got.cpu(), expected, 2 * theirs)


def by_torch(left: FactoredJacobian, right: FactoredJacobian | None) -> Tensor:
    return left.dense() @ (right or left).dense().mT


@on_each_device
@every_order
@every_case
@pytest.mark.parametrize("second", [False, True], ids=["itself", "another"])
def test_gram(rng: torch.Generator, case: Case, order: str, second: bool, device: str) -> None:
    left = jacobian(rng, case, case.B, device)
    right = jacobian(rng, case, case.B2, device) if second else None
    K = left.gram(right, order=order)
    assert_as_good_as_torch(K, exact(left, right), by_torch(left, right))
    if not second:
        assert torch.equal(K, K.mT)


@on_each_device
@every_order
def test_writes_its_result_and_nothing_else(rng: torch.Generator, order: str, device: str) -> None:
    from hpr_kernels.gram import triton

    case = CASES[1]
    J = jacobian(rng, case, case.B, device)
    M = case.B * case.O
    K = Guarded(case.R, M, M, device=device)
    contraction = {"hadamard": triton.hadamard, "dense": triton.dense}[order]
    contraction(K.tensor, factors(J), None, "tf32x3", 1 << 28)
    K.check()
    assert not K.unwritten().any()
    assert_close(K.tensor.cpu(), exact(J, None), 1e-5)


@on_each_device
@every_order
@pytest.mark.parametrize("reduce", ["trace", "diagonal"])
def test_reductions(rng: torch.Generator, reduce: str, order: str, device: str) -> None:
    case = CASES[4]
    left = jacobian(rng, case, case.B, device)
    for right in (None, jacobian(rng, case, case.B2, device)):
        rows, columns = (case.B, case.O), ((right or left).inputs.shape[1], case.O)
        both = []
        for K in (exact(left, right), by_torch(left, right)):
            diagonal = K.unflatten(2, columns).unflatten(1, rows).diagonal(dim1=2, dim2=4)
            both.append(diagonal.sum(-1) if reduce == "trace" else diagonal)
        assert_as_good_as_torch(left.gram(right, reduce=reduce, order=order), *both)


@on_each_device
@every_order
def test_pack_is_its_networks_bit_for_bit(rng: torch.Generator, order: str, device: str) -> None:
    case = CASES[1]
    J = jacobian(rng, case, case.B, device)
    K = J.gram(order=order)
    assert torch.equal(K, J.gram(order=order))
    for r in range(case.R):
        alone = FactoredJacobian(J.adjoints[r], J.inputs[r], J.reach)
        assert torch.equal(K[r], alone.gram(order=order))


@on_each_device
@every_order
@pytest.mark.parametrize("reduce", ["full", "diagonal"])
def test_every_budget_gives_the_same(
    rng: torch.Generator,
    reduce: str,
    order: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the least accepted budget to a large one: some steps or units of one network at a time, or all at once."""
    from hpr_kernels.gram import triton

    case = Case(R=3, B=5, O=2, S=4, N=7, F=6, B2=3)
    left, right = (jacobian(rng, case, B, device) for B in (case.B, case.B2))
    launches = []
    contract = triton.contract
    monkeypatch.setattr(
        triton, "contract", lambda *args, **kw: (launches.append(args), contract(*args, **kw))
    )
    for other in (None, right):
        whole = left.gram(other, order=order, reduce=reduce)
        with pytest.raises(ValueError, match="memory_budget: expected at least ") as refusal:
            left.gram(other, order=order, reduce=reduce, memory_budget=100)
        least = int(str(refusal.value).split()[4])
        counts = []
        for budget in (least, least + 2500, 1 << 20):
            launches.clear()
            K = left.gram(other, order=order, reduce=reduce, memory_budget=budget)
            counts.append(len(launches))
            assert_close(K, whole, 4 * torch.finfo(torch.float32).eps)
            if other is None and reduce == "full":
                assert torch.equal(K, K.mT)
        assert counts[0] > counts[1] > counts[2]


def test_the_order_with_fewer_products_is_chosen() -> None:
    from hpr_kernels.gram.triton import choose

    def chosen(B: int, T: int, N_out: int, steps: range, N: int = 300, F: int = 303) -> str:
        reach = (tuple(t for t in steps for _ in range(N_out)),)
        g = torch.empty(1, B, len(reach[0]), T, N, device="meta")
        return choose(Factors(g, g.new_empty(1, B, T, F), reach), None)

    assert chosen(32, 8, 3, range(8)) == "hadamard"
    assert chosen(200, 28, 10, range(27, 28), F=328) == "dense"
    # Making J of a single example costs as much as its kernel by steps.
    assert chosen(1, 28, 1, range(27, 28)) == "hadamard"


@on_each_device
@pytest.mark.parametrize("options", [
    {},
    {"outputs": "last", "parameters": ("input", "recurrent")},
    {"self_connections": False, "outputs": [0, 2]},
    {"reduce": "trace"},
], ids=["all", "last", "no self-connections", "trace"])  # fmt: skip
def test_tangent_kernel(rng: torch.Generator, options: dict[str, object], device: str) -> None:
    net = random_network(rng, R=2, N=33, T=3, B=5, dtype=torch.float32)
    exact, single, here = (
        dict(zip(("x1", "recurrent", "input", "readout"), values, strict=True))
        for values in (
            [value.double() for value in net], net, [value.to(device) for value in net],
        )
    )  # fmt: skip
    expected = leaky_rnn_ntk(**exact, rho=RHO, **options)
    # Torch serves "propagate" in every backend.
    theirs = leaky_rnn_ntk(**single, rho=RHO, order="propagate", **options)
    for order in (*ORDERS, "auto"):
        assert_as_good_as_torch(
            leaky_rnn_ntk(**here, rho=RHO, order=order, **options), expected, theirs
        )


@on_each_device
@pytest.mark.parametrize(("options", "budget"), [
    ({}, 1 << 28),
    ({}, 700_000),
    ({"outputs": "last", "parameters": ("recurrent",)}, 1 << 28),
    ({"self_connections": False, "outputs": [1, 2]}, 1 << 28),
    ({"parameters": ("readout", "input")}, 1 << 28),
], ids=["all", "tiles of examples", "last", "no self-connections", "input and readout"])  # fmt: skip
def test_streamed_alignment(
    rng: torch.Generator, options: dict[str, object], budget: int, device: str
) -> None:
    names = ("recurrent", "input", "readout")
    nets = [random_network(rng, R=2, N=33, T=3, B=9, dtype=torch.float32) for _ in range(2)]
    x = nets[0].x

    def weights(dtype: torch.dtype, where: str) -> dict[str, dict[str, Tensor]]:
        return {
            when: {name: value.to(where, dtype) for name, value in zip(names, net[1:], strict=True)}
            for when, net in zip(("before", "after"), nets, strict=True)
        }

    expected = leaky_rnn_kernel_alignment(
        x.double(), **weights(torch.float64, "cpu"), rho=RHO, **options
    )
    got = leaky_rnn_kernel_alignment(
        x.to(device), **weights(torch.float32, device), rho=RHO, memory_budget=budget, **options
    )
    assert got.dtype == torch.float64
    assert_close(got.cpu(), expected, 4 * torch.finfo(torch.float32).eps)
    one = {
        when: {name: value[1] for name, value in net.items()}
        for when, net in weights(torch.float32, device).items()
    }
    alone = leaky_rnn_kernel_alignment(
        x[1].to(device), **one, rho=RHO, memory_budget=1 << 28, **options
    )
    # A smaller budget is another order of summation.
    assert alone == got[1] or budget < 1 << 28


@on_each_device
def test_alignment_stores_sums_and_nothing_else(rng: torch.Generator, device: str) -> None:
    """Each tile of each pair of networks has its three sums, and those with a zero kernel are zero."""
    from hpr_kernels.tangent import triton

    case = Case(R=4, B=30, O=3, S=2, N=9, F=5, B2=30)
    J = jacobian(rng, case, case.B, device)
    J.adjoints[0] = 0
    rates = J.inputs.new_empty(case.R, case.B, case.O, case.N)
    block = JacobianBlock(factors(J), None, rates, False, 0, 1, "tf32x3")
    K = exact(J, None)
    sums = triton.block_sums(block, None, 1).cpu()
    pairs = [(K[2 + r] * K[r], K[2 + r].square(), K[r].square()) for r in range(2)]
    expected = torch.stack([torch.stack([p.sum() for p in pair]) for pair in pairs], dim=1)
    assert sums[0, 0] == sums[2, 0] == 0
    assert_close(sums, expected, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.gpu
@every_order
@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_on_a_card(
    rng: torch.Generator, precision: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is at most twice that of torch: in TF32 for `tf32`, in fp32 for the other precisions."""
    J = jacobian(rng, CASES[3], CASES[3].B, "cuda")
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", precision == "tf32")
    theirs = by_torch(J, None)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    assert_as_good_as_torch(J.gram(order=order, precision=precision), exact(J, None), theirs)


@pytest.mark.gpu
@pytest.mark.parametrize(("B", "N"), [(46_400, 4), (2_100, 1_050_000)], ids=["K and Ft", "g"])
def test_offsets_beyond_32_bits(B: int, N: int) -> None:
    """With over 2³¹ entries of K and Ft, or of g, the last rows equal a product by torch; needs 18 GB."""
    on_card = torch.Generator("cuda").manual_seed(1)
    g, z = (torch.randn(B, n, device="cuda", generator=on_card) for n in (N, 4))
    assert max(g.numel(), B * B) > 1 << 31
    J = FactoredJacobian(g[:, None, None], z[:, None])
    K = J.gram(order="hadamard", memory_budget=12 << 30)
    assert_close(K[-3:], (g[-3:] @ g.mT) * (z[-3:] @ z.mT), 1e-5)
    assert torch.equal(K[:, -1], K[-1])


def paper_specimens() -> list[Specimen]:
    """The launches that 2AF uses, at every precision, and all launches at the size of sMNIST."""
    from hpr_kernels.compiled import PAPER_SIZES
    from hpr_kernels.gram import triton as gram
    from hpr_kernels.tangent import triton as tangent

    def of_size(which: int, precision: Precision) -> list[Specimen]:
        found = []
        for launches in (gram.specimens(precision), tangent.specimens(precision)):
            each = len(launches) // len(PAPER_SIZES)
            found += launches[which * each : (which + 1) * each]
        return found

    first = [specimen for precision in PRECISIONS for specimen in of_size(0, precision)]
    taken = [s for s in first if "hadamard" in s.name or "alignment" in s.name]
    return [*taken, *of_size(1, DEFAULT_PRECISION)]


def variants() -> list[Specimen]:
    """The launches with a second set of examples and added results, outputs apart, or without self-connections."""
    added = {"SYMMETRIC": False, "ADD": True, "P": 24}
    dale = {"SYMMETRIC": False, "diagonal1": "*fp32", "diagonal2": "*fp32"}
    return [
        replace(s, name=f"{s.name}, variant", arguments={**s.arguments, **change})
        for s in paper_specimens()[-4:]
        for name, change in (("hadamard", added), ("alignment", dale))
        if name in s.name
    ]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(
    "specimen",
    [*paper_specimens(), *variants()],
    ids=lambda s: f"{s.name}, {s.arguments['PRECISION']}",
)
def test_compiled_budget(specimen: Specimen, capability: int) -> None:
    compiled = compile_for(specimen, capability)
    tile, precision = specimen.arguments["TILE"], specimen.arguments["PRECISION"]
    # Narrow loads: the tile's place in the table, its reach, and where K is added to, each entry of K.
    added = tile * tile // (32 * specimen.num_warps) if specimen.arguments.get("ADD") else 0
    # On 10.0 Triton 3.7 spills three registers of the "ieee" kernel, to run more warps at a time.
    spills = 3 if (precision, capability) == ("ieee", 100) else 0
    assert_budget(compiled, narrow_loads=4 + added, spills=spills)
    assert (compiled.tensor_core > 0) == (precision != "ieee")
    if precision != "ieee":
        wide = {80: "HMMA", 90: "HGMMA", 100: r"UTC\w*MMA"}
        assert compiled.count(wide[capability]) > 0


@pytest.mark.parametrize("name", ["hadamard", "alignment"])
def test_sizes_of_one_compile(name: str) -> None:
    """A launch turns a 1 into a constant, which the compiler treats differently from a number."""
    specimen = next(s for s in paper_specimens() if name in s.name)
    ones = {
        key: 1
        if isinstance(value, int) and not key.startswith(("TILE", "SYMMETRIC", "ADD"))
        else value
        for key, value in specimen.arguments.items()
    }
    compile_for(replace(specimen, arguments={**ones, "start": 0} if "start" in ones else ones), 90)
