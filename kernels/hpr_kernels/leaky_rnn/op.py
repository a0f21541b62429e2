"""Public functions of the leaky recurrence: checks, autograd and vmap rules, dispatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hpr_kernels import checks
from hpr_kernels.leaky_rnn import cpu


def leaky_rnn(
    x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str = "relu"
) -> Tensor:
    """Rates of the leaky ReLU network over all steps, h_0 = 0 (Liu et al. 2024, Eq. 1).

    h_{t+1} = rho h_t + (1 - rho) (W_h f(h_t) + W_x x_t)

    Args:
        x: inputs [R or 1, T, B, N_in], or [T, B, N_in] for a plain network.
        recurrent: W_h [R, N, N], row = postsynaptic; [N, N] for a plain network.
        input: W_x [R, N, N_in]; [N, N_in] for a plain network.
        rho: leak factor exp(-dt/tau) in [0, 1).
        activation: f, "relu" (f'(0) = 0) or "linear".

    Returns:
        rates f(h_1) … f(h_T), [R, T, B, N] (plain: [T, B, N]), a view whose rows may be padded. Differentiable once
        in x and the weights; composes with `torch.func` `grad`, `vmap` and `jacrev`.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """
    packed = checks.network(x, recurrent, input, rho, activation)
    if not packed:
        x, recurrent, input = x[None], recurrent[None], input[None]
    x = x.expand(len(recurrent), -1, -1, -1)
    trace = _Trace.apply(x, recurrent, input, rho, activation)
    rates = trace[:, 1:, :, : recurrent.shape[-1]]
    return rates if packed else rates[0]


def leaky_rnn_trace(
    x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str = "relu"
) -> tuple[Tensor, Tensor]:
    """Trace and joined weights of a pack (see `cpu`), without a graph; x [R or 1, T, B, N_in]."""
    (R, N, N_in), (T, B) = input.shape, x.shape[1:3]
    trace = cpu.empty_trace(R, T, B, N, N_in, like=x)
    trace[:, :T, :, N : N + N_in] = x
    weights = cpu.join(recurrent, input)
    cpu.forward(trace, weights, rho, activation)
    return trace, weights


def leaky_rnn_adjoints(
    rates: Tensor,
    *,
    recurrent: Tensor,
    readout: Tensor,
    rho: float,
    outputs: checks.Outputs = "all",
    activation: str = "relu",
) -> Tensor:
    """Adjoints g_s^{b,(t,k)} = ∂y_{t,k}^b / ∂h_{s+1} of the outputs y_t = w a_{t+1}, of every example at once.

    g_t = f'(h_{t+1}) ∘ w_k, g_s = rho g_{s+1} + (1 - rho) f'(h_{s+1}) ∘ (W_hᵀ g_{s+1}), zero for s > t.

    Args:
        rates: a_1 … a_T, [R, T, B, N] or [T, B, N], as `leaky_rnn` returns them.
        recurrent: W_h [R, N, N] or [N, N].
        readout: w [R, N_out, N] or [N_out, N].
        rho: leak factor in [0, 1).
        outputs: "all" steps, the "last" one, or ascending steps t (0-based: y_t reads a_{t+1}).
        activation: "relu" or "linear".

    Returns:
        [R, B, O, T, N] or [B, O, T, N], the O outputs of an example ordered (t, k). A view; not differentiable.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, or that holds NaN or infinity.
    """
    checks.tensor("rates", rates, (3, 4))
    checks.finite("rates", rates)
    packed = rates.dim() == 4
    lead = tuple(rates.shape[:-3])
    T, _, N = rates.shape[-3:]
    symbol = "R, " if packed else ""
    for name, value in (("recurrent", recurrent), ("readout", readout)):
        checks.tensor(name, value, (rates.dim() - 1,), like=rates)
        checks.finite(name, value)
    checks.shape("recurrent", recurrent, (*lead, N, N), f"[{symbol}N, N]")
    checks.shape("readout", readout, (*lead, None, N), f"[{symbol}N_out, N]")
    checks.leak(rho)
    checks.choice("activation", activation, ("relu", "linear"))
    steps = checks.steps(outputs, T)
    with torch.no_grad():
        if not packed:
            rates, recurrent, readout = rates[None], recurrent[None], readout[None]
        trace = torch.nn.functional.pad(rates, (0, 0, 0, 0, 1, 0))
        g = cpu.adjoints(trace, recurrent, readout, rho, steps, activation)
        g = g.permute(0, 3, 2, 1, 4)
    return g if packed else g[0]


class _Trace(Function):
    """x, W_h, W_x → trace; the rates in it are the differentiable result, its other columns are constants."""

    @staticmethod
    def forward(x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str) -> Tensor:
        return leaky_rnn_trace(x, recurrent, input, rho, activation)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, recurrent, input, ctx.rho, ctx.activation = inputs
        ctx.save_for_backward(output, recurrent, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        trace, recurrent, input = ctx.saved_tensors
        gradients = _Backward.apply(grad, trace, recurrent, input, ctx.rho, ctx.activation)
        return (*gradients, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        return _unfold(info.batch_size, _Trace.apply(*_fold(info.batch_size, in_dims, args))), 0


class _Backward(Function):
    """∂L/∂trace → ∂L/∂x, ∂L/∂W_h, ∂L/∂W_x, by one reverse sweep and one product over all steps."""

    @staticmethod
    def forward(
        grad: Tensor, trace: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        N, N_in = input.shape[1:]
        g = grad[:, 1:, :, :N].clone(memory_format=torch.contiguous_format)
        cpu.sweep(g, trace, recurrent, rho, activation)
        g.mul_(1 - rho)
        weights = torch.bmm(g.flatten(1, 2).mT, trace[:, :-1].flatten(1, 2))
        x = (g.flatten(1, 2) @ input).unflatten(1, g.shape[1:3])
        return x, weights[..., :N].contiguous(), weights[..., N : N + N_in].contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(
            "leaky_rnn: expected at most one differentiation, got a second; "
            "hpr_kernels.leaky_rnn.reference.leaky_rnn differentiates any number of times"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple[Tensor, ...], Any]:
        gradients = _Backward.apply(*_fold(info.batch_size, in_dims, args))
        return tuple(_unfold(info.batch_size, gradient) for gradient in gradients), (0, 0, 0)


def _fold(V: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> list[Any]:
    """Make vmap's axis part of the pack: networks are independent of each other, so V R of them are a larger pack."""
    folded = []
    for dim, arg in zip(in_dims, args, strict=True):
        if isinstance(arg, Tensor):
            front = arg.movedim(dim, 0) if dim is not None else arg.expand(V, *arg.shape)
            folded.append(front.flatten(0, 1))
        else:
            folded.append(arg)
    return folded


def _unfold(V: int, folded: Tensor) -> Tensor:
    return folded.unflatten(0, (V, -1))
