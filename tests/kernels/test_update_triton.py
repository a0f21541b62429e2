"""Tests of the fused update against its equation and against raw weights under Dale's law; budget when compiled.

Cases cover each size of N, rows and packs, not their product: the interpreter is slow.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_support import Guarded, assert_budget, on_each_device

from hpr_kernels.backend import uses_triton
from hpr_kernels.compiled import CAPABILITIES, compile_for
from hpr_kernels.layout import padded
from hpr_kernels.testing import assert_close, relative_error
from hpr_kernels.update import Constraint, momentum_step, reference

pytest.importorskip("triton")

SGD = {"scale": 0.3, "learning_rate": 0.1, "momentum": 0.9}


class Case(NamedTuple):
    R: int
    M: int
    P: int
    K: int


CASES = [
    Case(R=1, M=1, P=1, K=1),
    Case(R=3, M=33, P=36, K=33),
    Case(R=3, M=3, P=33, K=264),
    Case(R=1, M=198, P=201, K=8),
    Case(R=1, M=300, P=328, K=33),
    Case(R=1, M=17, P=300, K=1),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.R}x{c.M}x{c.P}-K{c.K}")
constrained = pytest.mark.parametrize("constraint", ["free", "shared", "each"])


def numbers(rng: torch.Generator, case: Case) -> tuple[Tensor, ...]:
    """Weights, velocity, left and right, fp32."""
    R, M, P, K = case
    shapes = ((R, M, P), (R, M, P), (R, K, M), (R, K, P))
    return tuple(torch.randn(shape, generator=rng) for shape in shapes)


def rules(rng: torch.Generator, case: Case, which: str) -> Tensor | None:
    """Random constraints of all kinds: none, one for the pack, or one per network."""
    if which == "free":
        return None
    R = case.R if which == "each" else 1
    return torch.randint(-1, 3, (R, case.M, case.P), generator=rng).to(torch.int8)


def placed(value: Tensor, width: int, device: str) -> tuple[Guarded, Tensor]:
    """`value` between guard bands, in rows of `width` numbers whose padding is NaN."""
    guarded = Guarded(*value.shape[:-1], width, device=device)
    view = guarded.tensor[..., : value.shape[-1]]
    view.copy_(value)
    return guarded, view


@on_each_device
@every_case
@constrained
@pytest.mark.parametrize("pad", [False, True], ids=["tight", "padded"])
def test_equals_the_equation(
    rng: torch.Generator, case: Case, constraint: str, pad: bool, device: str
) -> None:
    values = numbers(rng, case)
    rule = rules(rng, case, constraint)
    widths = [padded(v.shape[-1]) if pad else v.shape[-1] for v in values]
    guards, views = zip(
        *(placed(v, width, device) for v, width in zip(values, widths, strict=True)), strict=True
    )
    assert uses_triton(views[0])
    on_device = None if rule is None else rule.to(device)
    momentum_step(*views, constraint=on_device, precision="ieee", **SGD)
    exact = reference.momentum_step(*(v.double() for v in values), constraint=rule, **SGD)
    single = reference.momentum_step(*values, constraint=rule, **SGD)
    for got, wanted, torchs in zip(views[:2], exact, single, strict=True):
        theirs = max(relative_error(torchs, wanted), torch.finfo(torch.float32).eps)
        assert_close(got.cpu(), wanted, 2 * theirs)
    for guard, value in zip(guards, values, strict=True):
        guard.check()
        assert bool(guard.unwritten()[..., value.shape[-1] :].all())
    for view, value in zip(views[2:], values[2:], strict=True):
        assert torch.equal(view.cpu(), value)


@on_each_device
def test_tensor_cores_take_the_step(rng: torch.Generator, device: str) -> None:
    """At tf32x3 the step is as good as torch's, in the tensor memory of 10.0 too."""
    values = numbers(rng, CASES[1])
    rule = rules(rng, CASES[1], "each")
    views = [v.to(device, copy=True) for v in values]
    momentum_step(*views, constraint=rule.to(device), precision="tf32x3", **SGD)
    exact = reference.momentum_step(*(v.double() for v in values), constraint=rule, **SGD)
    single = reference.momentum_step(*values, constraint=rule, **SGD)
    for got, wanted, torchs in zip(views[:2], exact, single, strict=True):
        theirs = max(relative_error(torchs, wanted), torch.finfo(torch.float32).eps)
        assert_close(got.cpu(), wanted, 2 * theirs)


@on_each_device
def test_pack_is_its_networks(rng: torch.Generator, device: str) -> None:
    """A network's result has the same bits alone, in a pack, and each time."""
    values = [v.to(device) for v in numbers(rng, CASES[1])]
    rule = rules(rng, CASES[1], "each").to(device)
    together = [v.clone() for v in values]
    again = [v.clone() for v in values]
    momentum_step(*together, constraint=rule, **SGD)
    momentum_step(*again, constraint=rule, **SGD)
    for r in range(CASES[1].R):
        alone = [v[r : r + 1].clone() for v in values]
        momentum_step(*alone, constraint=rule[r : r + 1], **SGD)
        for one, pack, twin in zip(alone[:2], together[:2], again[:2], strict=True):
            assert torch.equal(one[0], pack[r])
            assert torch.equal(pack, twin)


def test_reflection_is_sgd_on_raw_weights(rng: torch.Generator) -> None:
    """The weights equal W = |U| ∘ sign, without its diagonal, after torch.optim.SGD on U."""
    N, K, steps = 9, 5, 40
    sign = torch.where(torch.rand(N, N, generator=rng) < 0.8, 1.0, -1.0)
    raw = (0.05 * torch.randn(N, N, generator=rng)).requires_grad_()
    absent = torch.eye(N, dtype=torch.bool)

    def effective(U: Tensor) -> Tensor:
        return (U.abs() * sign).masked_fill(absent, 0)

    optimiser = torch.optim.SGD([raw], lr=0.1, momentum=0.9)
    weights = effective(raw).detach()[None].clone()
    velocity = torch.zeros_like(weights)
    rule = sign.to(torch.int8).masked_fill(absent, Constraint.FROZEN)[None]
    crossings = 0
    for _ in range(steps):
        left, right = (torch.randn(1, K, N, generator=rng) for _ in range(2))
        before = raw.detach().sign()
        optimiser.zero_grad()
        effective(raw).backward(torch.bmm(left.mT, right)[0])
        optimiser.step()
        crossings += int((raw.detach().sign() != before).sum())
        momentum_step(
            weights,
            velocity,
            left,
            right,
            scale=1.0,
            learning_rate=0.1,
            momentum=0.9,
            constraint=rule,
        )
        assert_close(weights[0].double(), effective(raw).detach().double(), 1e-5)
        assert bool((weights[0] * sign >= 0).all())
    assert crossings > N


@pytest.mark.parametrize(
    ("constraint", "error", "message"),
    [
        (
            torch.zeros(1, 33, 36),
            TypeError,
            r"constraint: expected torch\.int8 on cpu, got torch\.float32",
        ),
        (torch.zeros(2, 33, 36, dtype=torch.int8), ValueError, r"expected shape \[R or 1, M, P\]"),
    ],
    ids=["float", "pack"],
)
def test_refuses_a_constraint(
    rng: torch.Generator, constraint: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        momentum_step(*numbers(rng, CASES[1]), constraint=constraint, **SGD)


def test_refuses_a_precision(rng: torch.Generator) -> None:
    with pytest.raises(ValueError, match="precision: expected one of"):
        momentum_step(*numbers(rng, CASES[1]), precision="bf16", **SGD)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("precision", ["tf32", "tf32x3"])
def test_budget(capability: int, precision: str) -> None:
    from hpr_kernels.update import triton

    for specimen in triton.specimens(precision)[:3]:
        compiled = compile_for(specimen, capability)
        # The readout has P = 300 columns, not a multiple of 16, so that not all of its loads can be 16 bytes wide.
        assert_budget(compiled, narrow_loads=16 if "readout" in specimen.name else 0)
        assert compiled.tensor_core > 0
