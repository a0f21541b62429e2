"""The results of the C kernels in NumPy, with every sum in the order of docs/bits.md; fp32 or fp64 by the arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fused import Reals, constant, exp, fma, log, product, tanh
from numpy.typing import NDArray

FROZEN = 2


def scaled(factor: float, x: Reals) -> Reals:
    """`factor`, rounded to the type of `x`, times `x`."""
    return constant(factor, x) * x


def line_sum(line: Reals) -> Reals:
    """The sum of the last axis: its second half is added to its first until one number is left."""
    while line.shape[-1] > 1:
        half = line.shape[-1] // 2
        line = line[..., :half] + line[..., half:]
    return np.asarray(line[..., 0])


def gram(g: Reals, z: Reals, reach: tuple[int, ...]) -> Reals:
    """K [B, O, B, O] of g [B, O, S, N] and z [B, S, F] by the order "propagate"."""
    B, O, S, N = g.shape
    W = 64 // g.itemsize
    lines = -(-N // W)
    padded = np.zeros((B, O, S, lines * W), g.dtype)
    padded[..., :N] = g
    padded = padded.reshape(B, O, S, lines, W)
    factors = product(z[:, :, None, None], z[None, None])  # [B, S, B', S']
    sums = np.zeros((B, O, B, O, W), g.dtype)
    for line in range(lines):
        for p, last in enumerate(reach):
            right = padded[:, p, : last + 1, line]  # [B', S', W]
            # [B, S, B', W]: the sum runs over s'.
            made = product(factors[:, :, :, None, : last + 1], right.swapaxes(1, 2)[None, None])
            for o, own in enumerate(reach):
                for s in range(own + 1):
                    left = padded[:, o, s, line][:, None]
                    sums[:, o, :, p] = fma(
                        np.broadcast_to(left, made[:, s].shape), made[:, s], sums[:, o, :, p]
                    )
    return line_sum(sums)


def row_products(K: Reals, u: Reals, v: Reals, copies: int) -> Reals:
    """K [M1 copies, M2 copies] with ⟨u_i, v_j⟩ added where a row and a column are the same copy."""
    found, added = K.copy(), product(u[:, None], v[None])
    for k in range(copies):
        found[k::copies, k::copies] += added
    return found


def kernel_sums(a: Reals, b: Reals, block: int) -> Any:
    """Σ a b, Σ b² and Σ a² in fp64."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    total = np.zeros(3)
    for start in range(0, x.size, block):
        for q, (left, right) in enumerate(((x, y), (y, y), (x, x))):
            terms = left[start : start + block] * right[start : start + block]
            sums = np.zeros(8)
            for i in range(0, terms.size, 8):
                sums[: len(terms[i : i + 8])] += terms[i : i + 8]
            total[q] += line_sum(sums)
    return total


def rates(x: Reals, weights: Reals, rho: float, activation: str) -> Reals:
    """Rates [T, B, N] on x [T, B, N_in], of weights [W_h W_x] or, for one step, W_x alone."""
    N = len(weights)
    inputs = weights[:, weights.shape[1] - x.shape[-1] :]
    found: list[Reals] = []
    h = np.zeros((x.shape[1], N), x.dtype)
    for t, now in enumerate(x):
        if t == 0:
            s = product(now[:, None], inputs[None])
            h = scaled(1 - rho, s)
        else:
            s = product(np.concatenate([found[-1], now], -1)[:, None], weights[None])
            h = fma(constant(1 - rho, s), s, scaled(rho, h))
        of = {"relu": np.where(h < 0, constant(0, h), h), "tanh": tanh(h), "linear": h}
        found.append(of[activation])
    return np.stack(found)


def sweep(g: Reals, a: Reals, W_h: Reals, rho: float, activation: str) -> Reals:
    """∂L/∂h [T, B, N] of ∂L/∂a in g [T, B, N], at the rates a [T, B, N]."""
    found = g.copy()
    for s in range(len(g) - 1, -1, -1):
        value = g[s]
        if s < len(g) - 1:
            pulled = product(found[s + 1][:, None], W_h.T[None])
            value = fma(constant(1 - rho, value), pulled, value)
        if activation == "tanh":
            value = value * fma(-a[s], a[s], constant(1, value))
        if activation == "relu":
            value = np.where(a[s] <= 0, constant(0, value), value)
        found[s] = value if s == len(g) - 1 else fma(constant(rho, value), found[s + 1], value)
    return found


def cross_entropy(y: Reals, targets: NDArray[np.int64]) -> tuple[Reals, float, float]:
    """Return K ∂loss/∂y [K, N_out], loss and accuracy of outputs y [K, N_out] and classes [K]."""
    log_p = y - y.max(1, keepdims=True)
    total = constant(0, log_p[:, 0])
    for k in range(y.shape[1]):
        total = total + exp(log_p[:, k])
    log_p = log_p - log(total)[:, None]
    picked = np.take_along_axis(log_p, targets[:, None], 1)
    loss = 0.0
    for one in picked[:, 0]:
        loss -= float(one)
    hits = int(((log_p >= picked).sum(1) == 1).sum())
    gradient = exp(log_p)
    gradient[np.arange(len(y)), targets] -= constant(1, y[:, 0])
    return gradient, loss / len(y), hits / len(y)


def squared_error(y: Reals, targets: Reals) -> tuple[Reals, float]:
    """Return K ∂loss/∂y [K, N_out] and loss of outputs and targets [K, N_out]."""
    difference = y - targets
    loss = 0.0
    for one in difference.ravel():
        loss += float(one) * float(one) / y.shape[1]
    return scaled(2.0 / y.shape[1], difference), loss / len(y)


@dataclass
class Network:
    """What an iteration changes: weights [W_h W_x], or W_1 of two layers, readout, and their velocities."""

    weights: Reals
    velocity: Reals
    readout: Reals
    readout_velocity: Reals
    constraint: NDArray[np.int8] | None


def descend(
    w: Reals,
    v: Reals,
    gradient: Reals,
    scale: float,
    how: dict[str, Any],
    kinds: NDArray[np.int8] | None,
) -> tuple[Reals, Reals]:
    """Return weights and velocity after the momentum step, within the constraints `kinds`."""
    velocity = fma(constant(scale, w), gradient, scaled(how["momentum"], v))
    if kinds is not None:
        velocity = np.where(kinds == FROZEN, constant(0, w), velocity)
    weights = fma(constant(-how["learning_rate"], w), velocity, w)
    if kinds is not None:
        crossed = ((kinds == 1) & (weights < 0)) | ((kinds == -1) & (weights > 0))
        velocity = np.where(crossed, -velocity, velocity)
        weights = np.where(crossed, -weights, weights)
    return weights, velocity


def iterate(
    net: Network, x: Reals, targets: NDArray[Any], how: dict[str, Any]
) -> tuple[float, float]:
    """Take one SGD iteration on x [T, B, N_in] and classes [T, B] or outputs [T, B, N_out]; return loss and accuracy.

    `how` are the options of `train_networks`.
    """
    (T, B, N_in), N = x.shape, len(net.weights)
    rho = how["rho"] or 0.0
    recurrent = net.weights.shape[1] - N_in
    a = rates(x, net.weights, rho, how["activation"])
    counted = a[how["first"] :].reshape(-1, N)
    y = product(counted[:, None], net.readout[None])
    accuracy = np.nan
    wanted = targets[how["first"] :].reshape(len(y), *targets.shape[2:])
    if targets.ndim == 3:
        dy, loss = squared_error(y, wanted)
    else:
        dy, loss, accuracy = cross_entropy(y, wanted)
    g = np.zeros_like(a)
    g[how["first"] :] = product(dy[:, None], net.readout.T[None]).reshape(-1, B, N)
    h = sweep(g, a, net.weights[:, :recurrent], rho, how["activation"])
    rows = h.reshape(T * B, N).T[:, None]  # [N, 1, T B]
    gradient = np.zeros_like(net.weights)
    gradient[:, recurrent:] = product(rows, x.reshape(T * B, N_in).T[None])
    if recurrent and T > 1:
        # As a_0 = 0, the sum begins with the second step.
        gradient[:, :recurrent] = product(rows[..., B:], a[:-1].reshape(-1, N).T[None])
    K = len(y)
    net.weights, net.velocity = descend(
        net.weights, net.velocity, gradient, (1 - rho) / K, how, net.constraint
    )
    net.readout, net.readout_velocity = descend(
        net.readout, net.readout_velocity, product(dy.T[:, None], counted.T[None]), 1 / K, how, None
    )
    return float(net.readout.dtype.type(loss)), float(net.readout.dtype.type(accuracy))
