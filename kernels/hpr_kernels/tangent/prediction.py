"""The outputs of a linearised network in the course of its training on the squared error, from its tangent kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpr_kernels import checks
from hpr_kernels.autocast import outside_autocast


class Prediction(NamedTuple):
    """Outputs after training: of the training examples, and of the test examples or None without `K_test`."""

    train: Tensor
    test: Tensor | None


# Longer than 60 lines: the docstring is the public reference of all arguments.
@outside_autocast
def predict_mse(
    K_train: Tensor,
    y_train: Tensor,
    K_test: Tensor | None = None,
    *,
    t: float | Sequence[float] | None = None,
    steps: int | Sequence[int] | None = None,
    learning_rate: float = 1.0,
    f_train: Tensor | None = None,
    f_test: Tensor | None = None,
) -> Prediction:
    """Outputs of the linearised network with tangent kernel K after training on the squared error (Lee et al. 2019).

    The loss is that of `torch.nn.functional.mse_loss`, L = (1/M) Σ_i (f_i - y_i)² over all M entries of `y_train`. With
    c = 2 learning_rate / M, full-batch gradient descent without momentum gives

    gradient flow, dθ/dt = -learning_rate ∂L/∂θ: f(t) = y + exp(-c t K) (f_0 - y)
    n steps, θ ← θ - learning_rate ∂L/∂θ:       f(n) = y + (1 - c K)^n (f_0 - y)

    and for test examples f_0 + K_test K⁻¹ (f - f_0)_train. Eigenvectors of eigenvalue zero do not move.
    `predict.gradient_descent_mse` of neural-tangents takes half of this loss: its time t is t / 2 here.

    Args:
        K_train: [M, M], rows example-major as `ntk` gives them; or [B, B] for independent outputs with one kernel each,
            which stands for K ⊗ 1, such as `ntk(…, reduce="trace") / O`. Symmetric and positive semidefinite.
        y_train: targets [B, …] with O entries per example, M = B O.
        K_test: [B_test O, M], or [B_test, B] beside a `K_train` of [B, B]; None for training examples alone.
        t: one time or several of gradient flow, 0 … inf. None without `steps`: inf, trained to the end.
        steps: one number or several of gradient steps, instead of `t`.
        learning_rate: positive. Steps diverge above M / λ_max, and the outputs are then those of the diverging network.
        f_train: outputs before training, of the shape of `y_train`; None for zeros.
        f_test: outputs before training [B_test, …]; None for zeros.

    Returns:
        `Prediction(train, test)`, of the shapes of `y_train` and `f_test`, with one more axis in front for several `t`
        or `steps`. Computed in fp64 by one eigendecomposition, of the dtype of the arguments. At t = inf, eigenvalues
        up to size · eps · λ_max are zero, with eps of the dtype of `K_train` (as in `torch.linalg.pinv`).

    Raises:
        ValueError, TypeError: naming the argument that does not fit or that holds NaN or infinity; `learning_rate`, if
            the outputs overflow.
    """
    learning_rate = checks.factor("learning_rate", learning_rate)
    if learning_rate <= 0:
        raise ValueError(f"learning_rate: expected a positive number, got {learning_rate!r}")
    times, several = _times(t, steps)
    _check_training(K_train, y_train, f_train)
    M, size = y_train.numel(), len(K_train)
    test_shape = None
    if K_test is not None:
        test_shape = _check_test(K_test, K_train, y_train, f_test)
    elif f_test is not None:
        raise ValueError(f"f_test: expected None without K_test, got shape {list(f_test.shape)}")
    with torch.no_grad():
        values, vectors = _spectrum(K_train)
        y = y_train.double().reshape(size, M // size)
        start = torch.zeros_like(y) if f_train is None else f_train.double().reshape(y.shape)
        wanted = vectors.mT @ (y - start)
        rate = 2 * learning_rate / M
        noise = size * torch.finfo(K_train.dtype).eps
        law = _flow if steps is None else _descent
        moved = torch.stack([law(values, rate, time, noise) for time in times])[..., None]
        train = start + vectors @ (values[:, None] * moved * wanted)
        lead = [len(times)] if several else []
        train = _finished(train, [*lead, *y_train.shape], y_train.dtype)
        if K_test is None or test_shape is None:
            return Prediction(train, None)
        test = K_test.double() @ (vectors @ (moved * wanted))
        if f_test is not None:
            test = test + f_test.double().reshape(test.shape[1:])
        return Prediction(train, _finished(test, [*lead, *test_shape], y_train.dtype))


def _flow(values: Tensor, rate: float, time: float, noise: float) -> Tensor:
    """(1 - exp(-c t λ)) / λ, and zero at λ = 0; the pseudo-inverse at t = inf."""
    if math.isinf(time):
        return torch.where(values > noise * values[-1], 1 / values, 0)
    return torch.where(values > 0, -torch.expm1(-rate * time * values) / values, 0)


def _descent(values: Tensor, rate: float, time: float, noise: float) -> Tensor:
    """(1 - (1 - c λ)^n) / λ, and zero at λ = 0."""
    step = rate * values
    # Where a step is small, 1 - c λ would round the change away.
    small = step < 0.5
    moved = torch.where(
        small, -torch.expm1(time * torch.log1p(-step.clamp(max=0.5))), 1 - (1 - step) ** time
    )
    return torch.where(values > 0, moved / values, 0)


def _spectrum(K: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, ascending and none negative, and eigenvectors in fp64."""
    exact = K.double()
    values, vectors = torch.linalg.eigh((exact + exact.mT) / 2)
    most = float(values.abs().max())
    tolerance = 10 * len(K) * torch.finfo(K.dtype).eps * most
    if float(values[0]) < -tolerance:
        raise ValueError(
            f"K_train: expected a positive semidefinite kernel, got an eigenvalue of {float(values[0]):.3g}"
        )
    # The eigendecomposition finds zero as a number of this size. Along such a vector K_test is zero too, up to rounding
    # that a long time would amplify.
    noise = len(K) * torch.finfo(torch.float64).eps * most
    return torch.where(values > noise, values, 0), vectors


def _finished(outputs: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    """The outputs in their shape and dtype; they must be finite."""
    outputs = outputs.reshape(shape).to(dtype)
    if not bool(outputs.isfinite().all()):
        raise ValueError(
            "learning_rate: expected one at which the outputs stay finite, got an overflow"
        )
    return outputs


def _times(
    t: float | Sequence[float] | None, steps: int | Sequence[int] | None
) -> tuple[list[float], bool]:
    """The times or numbers of steps, and whether there are several."""
    if t is not None and steps is not None:
        raise ValueError("steps: expected None beside t, got both")
    if t is None and steps is None:
        return [math.inf], False
    name = "t" if steps is None else "steps"
    given: Any = t if steps is None else steps
    # Tensors and arrays give Python's numbers.
    listed = given.tolist() if hasattr(given, "tolist") else given
    several = isinstance(listed, Sequence) and not isinstance(listed, str)
    values = listed if several else [listed]
    times = [checks.as_float(value if name == "t" else checks.as_int(value)) for value in values]
    kind = "times, 0 or greater" if name == "t" else "whole numbers, 0 or greater"
    found = [time for time in times if time is not None and time >= 0]
    if not times or len(found) < len(times):
        raise ValueError(f"{name}: expected {kind}, got {listed!r}")
    return found, several


def _check_training(K: Tensor, y: Tensor, f: Tensor | None) -> None:
    checks.tensor("K_train", K, (2,))
    if not isinstance(y, Tensor):
        raise TypeError(f"y_train: expected a torch.Tensor, got {type(y).__name__}")
    checks.tensor("y_train", y, (max(1, y.dim()),), like=K)
    if y.numel() == 0:
        raise ValueError(f"y_train: expected targets [B, …], none empty, got {list(y.shape)}")
    sizes = sorted({len(y), y.numel()}, reverse=True)
    if K.shape[0] != K.shape[1] or len(K) not in sizes:
        wanted = " or ".join(f"[{size}, {size}]" for size in sizes)
        raise ValueError(
            f"K_train: expected {wanted} for y_train {list(y.shape)}, got {list(K.shape)}"
        )
    for name, value in (("K_train", K), ("y_train", y)):
        checks.finite(name, value.detach())
    if float((K - K.mT).detach().abs().max()) > 1e-4 * float(K.detach().abs().max()):
        raise ValueError("K_train: expected a symmetric kernel, got one that is not")
    if f is not None:
        checks.tensor("f_train", f, (y.dim(),), like=K)
        checks.shape("f_train", f, tuple(y.shape), "that of y_train")
        checks.finite("f_train", f.detach())


def _check_test(K_test: Tensor, K: Tensor, y: Tensor, f: Tensor | None) -> list[int]:
    """Check the arguments of the test examples and return the shape of their outputs."""
    checks.tensor("K_test", K_test, (2,), like=K)
    checks.shape("K_test", K_test, (None, len(K)), "[rows, rows of K_train]")
    rows = len(K) // len(y)
    if len(K_test) == 0 or len(K_test) % rows:
        raise ValueError(
            f"K_test: expected a multiple of {rows} rows, one per output, got {len(K_test)}"
        )
    checks.finite("K_test", K_test.detach())
    shape = [len(K_test) // rows, *y.shape[1:]]
    if f is not None:
        checks.tensor("f_test", f, (y.dim(),), like=K)
        checks.shape("f_test", f, tuple(shape), "[B_test, …]")
        checks.finite("f_test", f.detach())
    return shape
