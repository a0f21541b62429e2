"""Public functions of the leaky recurrence, and the two operators behind them with autograd, vmap and shape rules.

The operators are registered with torch's dispatcher, so that `torch.func`, `torch.compile` and `torch.export` see each
as one node with a gradient. Each call chooses its backend, in `dispatch.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hpr_kernels import checks, layout
from hpr_kernels.autocast import outside_autocast
from hpr_kernels.backend import DEFAULT_PRECISION, check_precision
from hpr_kernels.recurrence import dispatch


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def leaky_rnn(
    x: Tensor,
    *,
    recurrent: Tensor,
    input: Tensor,
    bias: Tensor | None = None,
    rho: float,
    activation: checks.Activation = "relu",
    precision: checks.Precision = DEFAULT_PRECISION,
    batch_first: bool = False,
) -> Tensor:
    """Rates of the leaky recurrent network over all steps, h_0 = 0 (Liu et al. 2024, Eq. 1).

    h_{t+1} = rho h_t + (1 - rho) (W_h f(h_t) + W_x x_t + b)

    Args:
        x: inputs [R or 1, T, B, N_in], or [T, B, N_in] for a plain network; with `batch_first` [R or 1, B, T, N_in] or
            [B, T, N_in].
        recurrent: W_h [R, N, N], row = postsynaptic; [N, N] for a plain network.
        input: W_x [R, N, N_in]; [N, N_in] for a plain network.
        bias: b [R, N]; [N] for a plain network; None for b = 0.
        rho: leak factor exp(-dt/tau) in [0, 1). `nn.RNN` has rho = 0, see `from_rnn`.
        activation: f, "relu" (f'(0) = 0), "tanh" or "linear".
        precision: how products of fp32 numbers round in the Triton kernels: "ieee", "tf32x3" (nearly as exact, on
            tensor cores) or "tf32". Torch, which serves the CPU and other dtypes, ignores it. The products that turn
            ∂L/∂h into the gradients of x and the weights are torch's on every device and follow torch's settings.
        batch_first: whether x and the rates have examples before steps, as in `torch.nn.RNN`. The shapes do not tell
            the two orders apart.

    Returns:
        rates f(h_1) … f(h_T), [R, T, B, N] (plain: [T, B, N]; with `batch_first` [R, B, T, N] or [B, T, N]), a view
        whose rows may be padded. They have the dtype of x, under `torch.autocast` as well. They are differentiable once
        in x and the weights. The function composes with `torch.func` `grad`, `vmap` and `jacrev`, and is one node to
        `torch.compile` and `torch.export`.

    Raises:
        ValueError, TypeError: the message names the argument that does not fit.
    """
    packed = checks.network(x, recurrent, input, activation, bias)
    rho = checks.leak(rho)
    check_precision(precision)
    batch_first = checks.flag("batch_first", batch_first)
    if batch_first:
        x = x.transpose(-3, -2)
    if bias is not None:
        x, input = layout.with_constant_input(x, input, bias)
    if not packed:
        x, recurrent, input = x[None], recurrent[None], input[None]
    x = x.expand(len(recurrent), -1, -1, -1)
    trace = _Trace.apply(x, recurrent, input, rho, activation, precision)
    rates = trace[:, 1:, :, : recurrent.shape[-1]]
    rates = rates if packed else rates[0]
    return rates.transpose(-3, -2) if batch_first else rates


@outside_autocast
def leaky_rnn_trace(
    x: Tensor,
    recurrent: Tensor,
    input: Tensor,
    rho: float,
    activation: str = "relu",
    precision: str = DEFAULT_PRECISION,
) -> tuple[Tensor, Tensor]:
    """Trace and joined weights of a pack (see `hpr_kernels.layout`), without a graph; x is [R or 1, T, B, N_in]."""
    (R, N, N_in), (T, B) = input.shape, x.shape[1:3]
    trace = layout.empty_trace(R, T, B, N, N_in, like=x)
    trace[:, :T, :, N : N + N_in] = x
    weights = layout.join(recurrent, input)
    dispatch.forward(trace, weights, rho, activation, precision)
    return trace, weights


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def leaky_rnn_adjoints(
    rates: Tensor,
    *,
    recurrent: Tensor,
    readout: Tensor,
    rho: float,
    outputs: checks.Outputs = "all",
    activation: checks.Activation = "relu",
    precision: checks.Precision = DEFAULT_PRECISION,
    batch_first: bool = False,
) -> Tensor:
    """Adjoints g_s^{b,(t,k)} = ∂y_{t,k}^b / ∂h_{s+1} of the outputs y_t = w a_{t+1}, for all examples at once.

    g_t = f'(h_{t+1}) ∘ w_k, g_s = rho g_{s+1} + (1 - rho) f'(h_{s+1}) ∘ (W_hᵀ g_{s+1}), zero for s > t. The bias
    of a network is no argument, because the adjoints depend on it through the rates alone.

    Args:
        rates: a_1 … a_T, [R, T, B, N] or [T, B, N], as `leaky_rnn` returns them; with `batch_first` [R, B, T, N] or
            [B, T, N].
        recurrent: W_h [R, N, N] or [N, N].
        readout: w [R, N_out, N] or [N_out, N].
        rho: leak factor in [0, 1).
        outputs: "all" steps, the "last" one, or ascending steps t (0-based: y_t reads a_{t+1}).
        activation: f, "relu", "tanh" or "linear".
        precision: of the Triton kernels, as in `leaky_rnn`.
        batch_first: whether `rates` has examples before steps. The adjoints have examples first in either case.

    Returns:
        [R, B, O, T, N] or [B, O, T, N], the O outputs of an example ordered (t, k): a view, not differentiable.

    Raises:
        ValueError, TypeError: the message names the argument that does not fit, or that holds NaN or infinity.
    """
    checks.tensor("rates", rates, (3, 4))
    checks.finite("rates", rates)
    packed = rates.dim() == 4
    lead = tuple(rates.shape[:-3])
    batch_first = checks.flag("batch_first", batch_first)
    if batch_first:
        rates = rates.transpose(-3, -2)
    T, _, N = rates.shape[-3:]
    symbol = "R, " if packed else ""
    for name, value in (("recurrent", recurrent), ("readout", readout)):
        checks.tensor(name, value, (rates.dim() - 1,), like=rates)
        checks.finite(name, value)
    checks.shape("recurrent", recurrent, (*lead, N, N), f"[{symbol}N, N]")
    checks.shape("readout", readout, (*lead, None, N), f"[{symbol}N_out, N]")
    if min(*rates.shape[-3:], readout.shape[-2]) < 1:
        raise ValueError(f"rates: expected no empty axis, got {[*rates.shape]}, {[*readout.shape]}")
    rho = checks.leak(rho)
    checks.choice("activation", activation, checks.ACTIVATIONS)
    check_precision(precision)
    steps = checks.steps(outputs, T)
    with torch.no_grad():
        if not packed:
            rates, recurrent, readout = rates[None], recurrent[None], readout[None]
        trace = layout.empty_trace(len(rates), T, rates.shape[2], N, N_in=0, like=rates)
        trace[:, 1:, :, :N] = rates
        weights = layout.join(recurrent, recurrent[..., :0])
        g = dispatch.adjoints(trace, weights, readout, rho, steps, activation, precision)
        g = g.permute(0, 3, 2, 1, 4)
    return g if packed else g[0]


@torch.library.custom_op("hpr_kernels::leaky_rnn_trace", mutates_args=())
def _trace(
    x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str, precision: str
) -> Tensor:
    """x, W_h, W_x → trace, whose rates are the differentiable result and whose other columns are constants."""
    return leaky_rnn_trace(x, recurrent, input, rho, activation, precision)[0]


@_trace.register_fake
def _(x: Tensor, recurrent: Tensor, input: Tensor, *_: Any) -> Tensor:
    (R, T, B, N_in), N = x.shape, input.shape[1]
    return layout.empty_trace(R, T, B, N, N_in, like=x)


@torch.library.custom_op("hpr_kernels::leaky_rnn_backward", mutates_args=())
def _backward(
    grad: Tensor,
    trace: Tensor,
    recurrent: Tensor,
    input: Tensor,
    rho: float,
    activation: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂L/∂trace → ∂L/∂x, ∂L/∂W_h, ∂L/∂W_x."""
    return _gradients(grad, trace, recurrent, input, rho, activation, precision)


# Autograd runs a backward in the caller's context, and the caller may have entered autocast since the forward.
@outside_autocast
def _gradients(
    grad: Tensor,
    trace: Tensor,
    recurrent: Tensor,
    input: Tensor,
    rho: float,
    activation: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients that `_backward` returns, by one reverse sweep and one product over all steps."""
    N, N_in = input.shape[1:]
    R, T, B, _ = grad[:, 1:].shape
    rows = grad.new_zeros(R, T, B, layout.padded(N))
    g = rows[..., :N].copy_(grad[:, 1:, :, :N])
    dispatch.sweep(rows, trace, layout.join(recurrent, input), rho, activation, precision)
    g.mul_(1 - rho)
    weights = torch.bmm(g.flatten(1, 2).mT, trace[:, :-1].flatten(1, 2))
    x = (g.flatten(1, 2) @ input).unflatten(1, (T, B))
    by_group = (weights[..., :N], weights[..., N : N + N_in])
    return x, *(group.clone(memory_format=torch.contiguous_format) for group in by_group)


@_backward.register_fake
def _(
    grad: Tensor, trace: Tensor, recurrent: Tensor, input: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    R, steps, B = grad.shape[:3]
    x = input.new_empty(R, steps - 1, B, input.shape[2])
    return x, recurrent.new_empty(recurrent.shape), input.new_empty(input.shape)


class _Trace(Function):
    """The gradient of the operator `_trace`.

    The dispatcher's own `register_autograd` does not compose with `torch.func`. A Function does, and torch generates
    its vmap rule from the vmap rules of the operators that it calls.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, recurrent: Tensor, input: Tensor, rho: float, activation: str, precision: str
    ) -> Tensor:
        return _trace(x, recurrent, input, rho, activation, precision)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, recurrent, input, *ctx.options = inputs
        ctx.save_for_backward(output, recurrent, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Backward.apply(grad, *ctx.saved_tensors, *ctx.options), None, None, None)


class _Backward(Function):
    """The operator `_backward`, which has no gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        trace: Tensor,
        recurrent: Tensor,
        input: Tensor,
        rho: float,
        activation: str,
        precision: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _backward(grad, trace, recurrent, input, rho, activation, precision)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError(
            "leaky_rnn: expected at most one differentiation, got a second; "
            "hpr_kernels.recurrence.reference.leaky_rnn differentiates any number of times"
        )


@_trace.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    return _unfold(info.batch_size, _trace(*_fold(info.batch_size, in_dims, args))), 0


@_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, tuple[int, ...]]:
    gradients = _backward(*_fold(info.batch_size, in_dims, args))
    return tuple(_unfold(info.batch_size, gradient) for gradient in gradients), (0, 0, 0)


def _fold(V: int, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> list[Any]:
    """Fold vmap's axis into the pack: networks are independent of each other, so V packs of R are one of V R."""
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
