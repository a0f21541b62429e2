"""The tangent kernels of GRUs and of biased networks equal those of written-out Jacobians."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from other_cells import CPU, SMALL, batch, biased, double
from torch import Tensor

from hpr.experiment.specification import VARIANTS, RunSpec
from hpr.tasks import make_task
from hpr.training.cells import cell_rates
from hpr.training.initial import initial_pack
from hpr.training.pack import Pack, tangent_kernel
from hpr_kernels.testing import assert_close


def jacobian(pack: Pack, x: Tensor, spec: RunSpec, last: bool) -> Tensor:
    """The Jacobian [M, P] of the outputs by the weights that the kernel is of, rows (b, t, k)."""
    counted = [
        name for name in pack.named if {"bias": "input"}.get(name, name) in spec.ntk_parameters
    ]

    def outputs(weights: dict[str, Tensor]) -> Tensor:
        W = {**{name: value[0] for name, value in pack.named.items()}, **weights}
        packed = {name: value[None] for name, value in W.items()}
        a = cell_rates(
            x[None], recurrent=packed["recurrent"], input=packed["input"],
            bias=packed.get("bias"), spec=spec,
        )  # fmt: skip
        y = (a @ packed["readout"].mT[:, None])[0]
        return (y[-1:] if last else y).transpose(0, 1).flatten()

    J = torch.func.jacrev(outputs)({name: pack.named[name][0] for name in counted})
    return torch.cat([value.flatten(1) for value in J.values()], 1)


@pytest.mark.parametrize("outputs", ["all", "last"])
@pytest.mark.parametrize(
    "change",
    [
        {"cell": "gru", "bias": True},
        {"cell": "gru"},
        {"cell": "gru", "bias": True, "variant": "released"},
        {"bias": True, "activation": "tanh"},
        {"bias": True, "variant": "released"},
    ],
    ids=str,
)
def test_the_kernel_is_that_of_the_written_out_jacobian(
    change: dict[str, Any], outputs: Literal["all", "last"]
) -> None:
    spec = replace(SMALL, **VARIANTS[change.get("variant", "paper")], **change)
    pack = double(initial_pack([spec], make_task("2AF"), CPU))
    pack = biased(pack) if spec.bias else pack
    x = batch(spec, make_task("2AF"), 0)[0][0][:6]
    J = jacobian(pack, x, spec, outputs == "last")
    state = torch.random.get_rng_state()
    K = tangent_kernel(pack, x, spec, outputs)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_close(K, J @ J.mT)
