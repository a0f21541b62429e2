"""`ntk_operator` and `ntk_alignment` refuse the modules that `ntk` refuses, and change none."""

from __future__ import annotations

import pytest
import torch
from test_ntk_module import CALLS, KEPT, REFUSED, assert_same, state
from torch import nn

from hpr_kernels import ntk_alignment, ntk_operator

X = torch.ones(3, 4)


@pytest.mark.parametrize("name", KEPT)
def test_a_module_is_left_as_it_was(name: str, rng: torch.Generator) -> None:
    module, x = KEPT[name], torch.randn(3, 4, generator=rng)
    before = state(module)
    operator = ntk_operator(module, x)
    operator @ torch.ones(operator.shape[1])
    operator.trace()
    ntk_alignment(module, module, x)
    assert_same(before, state(module))


# This slope shows in a product alone.
@pytest.mark.parametrize("name", sorted(set(REFUSED) - {"a slope that is none"}))
def test_what_ntk_refuses_is_refused(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        ntk_operator(module, X)


def test_a_slope_that_is_none_is_named() -> None:
    operator = ntk_operator(REFUSED["a slope that is none"][0], X)
    with pytest.raises(ValueError, match=r"^product: expected finite numbers, got"):
        operator @ torch.ones(9)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"a small budget"}))
def test_arguments_that_ntk_refuses_are_refused(name: str) -> None:
    change, message = CALLS[name]
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        ntk_operator(**{"module": nn.Linear(4, 3), "x1": X, **change})
