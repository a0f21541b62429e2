"""Which parameters `ntk` differentiates by: names and patterns of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hpr_kernels import ntk
from hpr_kernels.tangent.prepared import parameter_names

X = torch.ones(3, 4)
PATTERNS: dict[str, tuple[Any, list[str]]] = {
    "one pattern": ("*.bias", ["0.bias", "2.bias", "3[a].bias"]),
    "a part": ("2.*", ["2.weight", "2.bias"]),
    "a pattern and names": (["2.bias", "*.bias", "2.bias"], ["2.bias", "0.bias", "3[a].bias"]),
    "one character": (("?.weight",), ["0.weight", "2.weight"]),
    "a name with brackets": ("3[a].bias", ["3[a].bias"]),
    "a set of characters": ("[02].bias", ["0.bias", "2.bias"]),
}


@pytest.mark.parametrize(("given", "expected"), PATTERNS.values(), ids=PATTERNS)
def test_parameters_by_patterns(given: Any, expected: list[str]) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    module.add_module("3[a]", nn.Linear(2, 2))
    assert list(parameter_names(module, given)) == expected
    assert torch.equal(ntk(module, X, parameters=given), ntk(module, X, parameters=expected))


def test_a_bias_whose_effect_a_norm_removes(rng: torch.Generator) -> None:
    """Its gradients are rounding errors of another size by each way, not those of a parameter read elsewhere."""
    module = nn.Sequential(nn.Conv1d(1, 2, 2), nn.InstanceNorm1d(2), nn.Tanh()).to(torch.float64)
    x = torch.randn(3, 1, 4, generator=rng, dtype=torch.float64)
    assert float(ntk(module, x, parameters="0.bias").abs().max()) < 1e-25
    assert float(ntk(module, x, parameters="0.weight").abs().max()) > 1e-3


@pytest.mark.parametrize("given", [["*", "1.*"], ["gain"], "1.*", [["bias"]], [3], 3, [], ()])
def test_what_matches_nothing_is_named(given: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^parameters: expected some of \('weight', 'bias'\), got "
    ) as caught:
        ntk(nn.Linear(4, 3), X, parameters=given)
    assert str(caught.value).endswith(f", got {given!r}")
