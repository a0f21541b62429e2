"""The exact NTK by the methods that run in this environment; each makes its network and returns a call.

- this engine;
- one product of a Jacobian with its transpose, the Jacobian given: the floor of every method that forms one;
- `torch.func`: Jacobians per example by jacrev and their contraction, or products of the NTK with unit vectors, which
  need no Jacobian;
- the authors' method: a loop of autograd.grad with a Jacobian that grows by cat.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.suites.calls import KernelCall, ntk_by_torch_func, ntk_call, outputs_of_example
from benchmarks.suites.cases import NetworkShape, draw_network


def product_alone(shape: NetworkShape) -> KernelCall:
    """One product J Jᵀ, where J is noise of the Jacobian's size."""
    J = torch.randn(shape.rows, shape.weights)
    return lambda: J @ J.mT


def vector_products(shape: NetworkShape) -> KernelCall:
    """torch.func: K e_j by a vjp and a jvp for each unit vector of the outputs, all at once; no Jacobian."""
    x, *drawn = draw_network(shape)
    by_example = x.movedim(1, 0)
    # Without a readout the third weight is not used, so nothing is differentiated by it.
    weights = tuple(drawn if shape.readout else drawn[:2])

    def outputs_for(x: Tensor) -> Callable[..., Tensor]:
        return lambda W, U, w=drawn[2]: outputs_of_example(shape, W, U, w, x)

    def block(left: Tensor, right: Tensor) -> Tensor:
        y, pull, *_ = torch.func.vjp(outputs_for(right), *weights)
        identity = torch.eye(len(y))

        def column(unit: Tensor) -> Tensor:
            return torch.func.jvp(outputs_for(left), weights, pull(unit))[1]

        return torch.func.vmap(column)(identity).mT

    blocks = torch.func.vmap(torch.func.vmap(block, in_dims=(None, 0)), in_dims=(0, None))

    def call() -> Tensor:
        K = blocks(by_example, by_example)  # [B, B, O, O]
        return K.permute(0, 2, 1, 3).reshape(shape.rows, shape.rows)

    return call


def authors_loop(shape: NetworkShape) -> KernelCall:
    """A loop of autograd.grad over outputs, a Jacobian that grows by cat, and its product."""
    x, *drawn = draw_network(shape)

    def call() -> Tensor:
        leaves = [
            weights.clone().requires_grad_() for weights in drawn[: 3 if shape.readout else 2]
        ]
        W, U, w = (*leaves, drawn[2])[:3]
        J = torch.empty(0)
        for b in range(shape.B):
            for y in outputs_of_example(shape, W, U, w, x[:, b]):
                gradients = torch.autograd.grad(
                    y, leaves, retain_graph=True, materialize_grads=True
                )
                J = torch.cat([J, torch.cat([g.flatten() for g in gradients])[None]])
        return J @ J.mT

    return call


METHODS: dict[str, Callable[[NetworkShape], KernelCall]] = {
    "this engine": ntk_call,
    "J Jᵀ alone": product_alone,
    "torch.func jacrev": ntk_by_torch_func,
    "torch.func NTK-vector": vector_products,
    "the authors' loop": authors_loop,
}
