"""The exact NTK of a module by the methods of torch; each takes the module and its inputs and returns a call.

All outputs [B, O] of the module are rows of the kernel [B O, B O], and all parameters are differentiated. A method with
settings is measured by each of them, and the fastest is what the table has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.peers.ntk_models import GatedNetwork
from benchmarks.suites.calls import KernelCall, LeakyNetwork

# Columns of the Jacobian per product, as the authors of empirical-ntks have it in their example.
COLUMNS = 20_000
# With more outputs at once the gradients exceed what malloc keeps between two steps.
OUTPUTS = 24

Weights = dict[str, Tensor]


class Method(NamedTuple):
    """`prepare` takes a module, inputs and one of the settings, and returns the call."""

    prepare: Callable[[nn.Module, Tensor, int | None], KernelCall]
    settings: tuple[int | None, ...] = (None,)
    # Whether it is for leaky recurrent networks alone.
    leaky: bool = False


def this_engine(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """`hpr_kernels.ntk` with its default budget, which takes torch's own recurrent layers."""
    from hpr_kernels import ntk

    if isinstance(module, GatedNetwork):
        module = copy.deepcopy(module)
        module.composed = False
    return lambda: ntk(module, x)


def fused(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """`hpr_kernels.leaky_rnn_ntk` of the same weights."""
    from benchmarks.suites.cases import RHO
    from hpr_kernels import leaky_rnn_ntk

    assert isinstance(module, LeakyNetwork)
    weights = {name: value.detach() for name, value in module.named_parameters()}
    steps = x.movedim(1, 0).contiguous()
    return lambda: leaky_rnn_ntk(
        steps,
        recurrent=weights["recurrent"],
        input=weights["input"],
        readout=weights.get("readout"),
        rho=RHO,
        outputs="last" if module.last else "all",
    )


def product_alone(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """One product J Jᵀ, where J is noise of the Jacobian's size: the floor of the methods that form one."""
    weights = sum(parameter.numel() for parameter in module.parameters())
    J = torch.randn(module(x).numel(), weights, dtype=next(module.parameters()).dtype)
    return lambda: J @ J.mT


def jacobians(module: nn.Module, x: Tensor, examples: int | None) -> KernelCall:
    """torch.func: jacrev of some examples at a time, and a product parameter by parameter."""
    outputs, weights = function_of(module)
    rows = torch.func.jacrev(outputs, chunk_size=OUTPUTS)
    of_examples = torch.func.vmap(rows, in_dims=(None, 0))

    def call() -> Tensor:
        whole: Weights = {}
        done = 0
        for some in x.split(examples or len(x)):
            for name, J in of_examples(weights, some).items():
                if name not in whole:
                    whole[name] = J.new_empty(len(x), *J.shape[1:])
                whole[name][done : done + len(some)] = J
            done += len(some)
        return contracted(list(whole.values()))

    return call


def vector_products(module: nn.Module, x: Tensor, examples: int | None) -> KernelCall:
    """torch.func: K e = J (Jᵀ e) for the unit vectors e of some examples at a time, by a vjp and a jvp of all examples.

    Jᵀ e needs a vjp of one example alone.
    """
    outputs, weights = function_of(module)
    pulled = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))

    def all_outputs(weights: Weights) -> Tensor:
        return torch.func.functional_call(module, weights, (x,)).flatten()

    def pushed(direction: Weights) -> Tensor:
        return torch.func.jvp(all_outputs, (weights,), (direction,))[1]

    def call() -> Tensor:
        rows = []
        for some in x.split(examples or len(x)):
            directions = {name: J.flatten(0, 1) for name, J in pulled(weights, some).items()}
            rows.append(torch.func.vmap(pushed)(directions))
        return torch.cat(rows)

    return call


def tutorial_jacobians(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """The PyTorch tutorial: the Jacobians of x1 and of x2, of all examples at once, and a contraction by einsum."""
    outputs, weights = function_of(module)
    rows = torch.func.vmap(torch.func.jacrev(outputs), in_dims=(None, 0))

    def call() -> Tensor:
        left, right = (
            [J.flatten(2) for J in rows(weights, inputs).values()] for inputs in (x, x.clone())
        )
        products = [torch.einsum("iap,jbp->iajb", J, G) for J, G in zip(left, right, strict=True)]
        return flat(torch.stack(products).sum(0))

    return call


def tutorial_vector_products(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """The PyTorch tutorial: for each pair of examples a vjp of one and a jvp of the other, over all unit vectors."""
    outputs, weights = function_of(module)
    O = module(x[:1]).numel()
    identity = torch.eye(O, dtype=next(module.parameters()).dtype)

    def block(left: Tensor, right: Tensor) -> Tensor:
        pull = torch.func.vjp(lambda weights: outputs(weights, right), weights)[1]

        def column(unit: Tensor) -> Tensor:
            return torch.func.jvp(lambda weights: outputs(weights, left), (weights,), pull(unit))[1]

        return torch.func.vmap(column)(identity).mT

    blocks = torch.func.vmap(torch.func.vmap(block, in_dims=(None, 0)), in_dims=(0, None))
    return lambda: flat(blocks(x, x).transpose(1, 2))


def curvlinops_products(module: nn.Module, x: Tensor, columns: int | None) -> KernelCall:
    """Curvlinops: its operators J and Jᵀ on the identity, some columns at a time; or Jᵀ written out and multiplied."""
    from curvlinops import JacobianLinearOperator

    targets = torch.zeros(len(x))
    J = JacobianLinearOperator(
        module, list(module.parameters()), [(x, targets)],
        check_deterministic=False, num_data=len(x),
    )  # fmt: skip
    identity = torch.eye(J.shape[0], dtype=next(module.parameters()).dtype)

    def call() -> Tensor:
        if columns is None:
            written = J.adjoint() @ identity
            return written.mT @ written
        return torch.cat([J @ (J.adjoint() @ some) for some in identity.split(columns, 1)], 1)

    return call


def row_by_row(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """The way of empirical-ntks: a backward pass per row, and the product of some columns of J at a time.

    That package is for one output per example and for CUDA, so it cannot be called here.
    """
    parameters = list(module.parameters())
    P = sum(parameter.numel() for parameter in parameters)

    def call() -> Tensor:
        ys = [module(example).flatten() for example in x.split(1)]
        J = ys[0].new_zeros(len(ys) * len(ys[0]), P)
        for row, y in zip(J, (y for of_example in ys for y in of_example), strict=True):
            row.copy_(flat_gradient(y, parameters))
        K = J.new_zeros(len(J), len(J))
        for some in J.split(COLUMNS, 1):
            K.addmm_(some, some.mT)
        return K.detach()

    return call


def authors_loop(module: nn.Module, x: Tensor, _: int | None) -> KernelCall:
    """The paper's authors: a backward pass per row, a Jacobian that grows by cat, and its product."""
    parameters = list(module.parameters())

    def call() -> Tensor:
        J = torch.empty(0, dtype=parameters[0].dtype)
        for example in x.split(1):
            for y in module(example).flatten():
                J = torch.cat([J, flat_gradient(y, parameters)[None]])
        return J @ J.mT

    return call


def function_of(module: nn.Module) -> tuple[Callable[[Weights, Tensor], Tensor], Weights]:
    """Flat outputs of one example as a function of the parameters, and the parameters."""
    weights = {name: value.detach() for name, value in module.named_parameters()}

    def outputs(weights: Weights, x: Tensor) -> Tensor:
        return torch.func.functional_call(module, weights, (x[None],)).flatten()

    return outputs, weights


def contracted(jacobians: list[Tensor]) -> Tensor:
    """K [B O, B O] of Jacobians [B, O, …]."""
    flattened: list[Any] = [J.flatten(2).flatten(0, 1) for J in jacobians]
    return sum(J @ J.mT for J in flattened)


def flat(K: Tensor) -> Tensor:
    """[B O, B O] from [B, O, B, O]."""
    return K.flatten(2).flatten(0, 1)


def flat_gradient(y: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    """The gradient of one output by all parameters, [P]."""
    gradients = torch.autograd.grad(y, parameters, retain_graph=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


METHODS = {
    "this engine": Method(this_engine),
    "this engine, fused": Method(fused, leaky=True),
    "J Jᵀ alone": Method(product_alone),
    "torch.func Jacobians": Method(jacobians, (1, 4, None)),
    "torch.func NTK-vector": Method(vector_products, (1, 4, None)),
    "tutorial Jacobians": Method(tutorial_jacobians),
    "tutorial NTK-vector": Method(tutorial_vector_products),
    "curvlinops": Method(curvlinops_products, (16, 64, None)),
    "empirical-ntks' way": Method(row_by_row),
    "the authors' loop": Method(authors_loop, leaky=True),
}
