"""`predict_mse` against linearised networks that are trained step by step, the flow's equation, and wide networks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpr_kernels import linearize, ntk, predict_mse
from hpr_kernels.testing import assert_close

F64 = torch.float64


def problem(hidden: int = 20) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, training inputs and targets, and test inputs."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)).to(F64)
    return module, *(torch.randn(B, n, dtype=F64) for B, n in ((6, 3), (6, 2), (4, 3)))


def given(module: nn.Module, x: Tensor, y: Tensor, x_test: Tensor) -> dict[str, Tensor]:
    return {
        "K_train": ntk(module, x),
        "y_train": y,
        "K_test": ntk(module, x_test, x),
        "f_train": module(x).detach(),
        "f_test": module(x_test).detach(),
    }


def descend(module: nn.Module, x: Tensor, y: Tensor, steps: int, learning_rate: float) -> None:
    optimiser = torch.optim.SGD(module.parameters(), lr=learning_rate)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        optimiser.step()


# The last rate diverges: M / λ_max is smaller.
@pytest.mark.parametrize("learning_rate", [1e-3, 0.1, 1.5])
def test_steps_equal_a_linearised_network_that_sgd_trains(learning_rate: float) -> None:
    module, x, y, x_test = problem()
    call = given(module, x, y, x_test)
    if learning_rate == 1.5:
        assert learning_rate > y.numel() / float(torch.linalg.eigvalsh(call["K_train"])[-1])
    linear = linearize(module)
    numbers = [0, 1, 2, 7, 30]
    predicted = predict_mse(**call, steps=numbers, learning_rate=learning_rate)
    assert predicted.test is not None
    for place, (last, number) in enumerate(pairwise([0, *numbers])):
        descend(linear, x, y, number - last, learning_rate)
        assert_close(predicted.train[place], linear(x), 1e-10)
        assert_close(predicted.test[place], linear(x_test), 1e-10)
        alone = predict_mse(**call, steps=number, learning_rate=learning_rate)
        assert alone.train.shape == y.shape
        assert_close(alone.train, predicted.train[place])
    if learning_rate == 1.5:
        assert float(predicted.train[-1].norm()) > 1e3 * float(y.norm())


def test_flow_solves_its_equation() -> None:
    from scipy.integrate import solve_ivp

    module, x, y, x_test = problem()
    call = given(module, x, y, x_test)
    K = torch.cat([call["K_train"], call["K_test"]]).numpy()
    target, times = y.flatten().numpy(), [0.0, 0.5, 3.0, 20.0]

    def slope(t: float, f: Any) -> Any:
        return -0.3 * K @ (2 / 12 * (f[:12] - target))

    start = torch.cat([call["f_train"], call["f_test"]]).flatten().numpy()
    solved = solve_ivp(slope, (0, 20), start, t_eval=times, rtol=1e-10, atol=1e-10, method="LSODA")
    train, test = predict_mse(**call, t=times, learning_rate=0.3)
    assert test is not None
    expected = torch.from_numpy(solved.y.T)
    assert_close(train.flatten(1), expected[:, :12], 1e-7)
    assert_close(test.flatten(1), expected[:, 12:], 1e-7)


def test_flow_is_the_limit_of_small_steps() -> None:
    call = given(*problem())
    flow = predict_mse(**call, t=4.0, learning_rate=0.5).train
    errors = [
        float((predict_mse(**call, steps=n, learning_rate=2.0 / n).train - flow).norm())
        for n in (100, 200, 400)
    ]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.05)


def test_the_end_of_training_is_interpolation() -> None:
    call = given(*problem())
    train, test = predict_mse(**call)
    assert test is not None
    assert_close(train, call["y_train"], 1e-10)
    wanted = torch.linalg.solve(call["K_train"], (call["y_train"] - call["f_train"]).flatten())
    assert_close(test, call["f_test"] + (call["K_test"] @ wanted).view(4, 2), 1e-10)
    several = predict_mse(**call, t=[1e9, math.inf])
    for one in several.train:
        assert_close(one, train, 1e-10)


def test_a_singular_kernel_moves_nothing_outside_its_range() -> None:
    """More outputs than parameters: the end is the least-squares fit, and a copy of an example has its outputs."""
    torch.manual_seed(0)
    module = nn.Linear(2, 1, bias=False, dtype=F64)
    x, y, x_test = (torch.randn(n, m, dtype=F64) for n, m in ((7, 2), (7, 1), (3, 2)))
    call = given(module, x, y, x_test)
    for options in ({}, {"t": 1e8}, {"steps": 10**7, "learning_rate": 0.5}):
        train, test = predict_mse(**call, **options)
        assert test is not None
        fit = torch.linalg.lstsq(x, y).solution
        assert_close(train, x @ fit, 1e-9)
        assert_close(test, x_test @ fit, 1e-9)
    zero = predict_mse(torch.zeros(7, 7, dtype=F64), y, t=[1.0, math.inf], f_train=y + 1)
    assert torch.equal(zero.train, (y + 1).expand(2, 7, 1))
    single = {name: value.float() for name, value in call.items()}
    assert_close(predict_mse(**single).train, (x @ fit).float(), 1e-5)


def test_one_kernel_for_independent_outputs() -> None:
    torch.manual_seed(0)
    J, H = torch.randn(5, 9, dtype=F64), torch.randn(3, 9, dtype=F64)
    y, f, g = (torch.randn(n, 2, 3, dtype=F64) for n in (5, 5, 3))
    eye = torch.eye(6, dtype=F64)
    for options in ({"t": [0.0, 1.5, math.inf]}, {"steps": [0, 3], "learning_rate": 0.2}, {}):
        shared, whole = (
            predict_mse(a, y, b, f_train=f, f_test=g, **options)  # type: ignore[arg-type]
            for a, b in (
                (J @ J.mT, H @ J.mT),
                (torch.kron(J @ J.mT, eye), torch.kron(H @ J.mT, eye)),
            )
        )
        assert shared.test is not None
        assert whole.test is not None
        assert shared.test.shape[-3:] == (3, 2, 3)
        assert_close(shared.train, whole.train)
        assert_close(shared.test, whole.test)


def test_targets_of_one_axis_and_no_outputs_before() -> None:
    torch.manual_seed(0)
    J = torch.randn(4, 9, dtype=F64)
    y = torch.randn(4, dtype=F64)
    predicted = predict_mse(J @ J.mT, y, J[:2] @ J.mT, t=2)
    assert predicted.test is not None
    assert predicted.train.shape == (4,)
    assert_close(predicted.test, predicted.train[:2])
    assert predict_mse(J @ J.mT, y, t=2).test is None
    expected = y - torch.linalg.matrix_exp(-2 * 2 / 4 * J @ J.mT) @ y
    assert_close(predicted.train, expected, 1e-11)


def test_times_of_numpy_and_torch() -> None:
    import numpy as np

    J = torch.randn(4, 9, dtype=F64)
    K, y = J @ J.mT, torch.ones(4, dtype=F64)
    expected = predict_mse(K, y, t=[0.5, 2.0]).train
    for times in (np.array([0.5, 2.0]), torch.tensor([0.5, 2.0]), (0.5, 2)):
        assert torch.equal(predict_mse(K, y, t=times).train, expected)  # type: ignore[arg-type]
    for time in (np.float32(2), torch.tensor(2.0)):
        assert torch.equal(predict_mse(K, y, t=time).train, expected[1])  # type: ignore[arg-type]
    assert torch.equal(
        predict_mse(K, y, steps=np.int64(3), learning_rate=0.1).train,  # type: ignore[arg-type]
        predict_mse(K, y, steps=3, learning_rate=0.1).train,
    )


class Scaled(nn.Module):
    """α (f(x; θ) - f(x; θ0)), which becomes lazy as α grows (Chizat et al. 2019)."""

    def __init__(self, module: nn.Module, scale: float, x: Tensor) -> None:
        super().__init__()
        self.module, self.scale = module, scale
        self.start = [p.detach().clone() for p in module.parameters()]

    def forward(self, x: Tensor) -> Tensor:
        names = [name for name, _ in self.module.named_parameters()]
        held = dict(zip(names, self.start, strict=True))
        before = torch.func.functional_call(self.module, held, (x,))
        return self.scale * (self.module(x) - before)


def test_a_scaled_network_nears_its_prediction() -> None:
    """The distance of real training from the prediction falls as 1/α (Chizat et al. 2019, Theorem 2.2)."""
    errors = []
    for scale in (10.0, 20.0, 40.0):
        module, x, y, x_test = problem()
        scaled = Scaled(module, scale, x)
        J = ntk(module, x), ntk(module, x_test, x)
        rate = 0.1 / scale**2
        predicted = predict_mse(scale**2 * J[0], y, scale**2 * J[1], steps=200, learning_rate=rate)
        descend(scaled, x, y, 200, rate)
        assert predicted.test is not None
        errors.append(
            [
                float((scaled(xs) - expected).detach().norm() / expected.norm())
                for xs, expected in ((x, predicted.train), (x_test, predicted.test))
            ]
        )
    for coarse, fine in pairwise(errors):
        for one, other in zip(coarse, fine, strict=True):
            assert one / other == pytest.approx(2, rel=0.2)
    assert max(errors[-1]) < 0.05


def test_a_wide_network_nears_its_prediction() -> None:
    """In the NTK parametrisation the distance falls as 1/√width or faster (Lee et al. 2019, Theorem 2.1)."""

    class Wide(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.randn(width, 3, dtype=F64))
            self.last = nn.Parameter(torch.randn(2, width, dtype=F64))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.first.mT).tanh() @ self.last.mT / len(self.first) ** 0.5

    def error(width: int, seed: int) -> float:
        torch.manual_seed(seed)
        x, y, x_test = (torch.randn(n, m, dtype=F64) for n, m in ((5, 3), (5, 2), (4, 3)))
        module = Wide(width)
        call = given(module, x, y, x_test)
        predicted = predict_mse(**call, steps=100, learning_rate=1.0)
        descend(module, x, y, 100, 1.0)
        assert predicted.test is not None
        return float((module(x_test) - predicted.test).detach().norm() / predicted.test.norm())

    errors = [sum(error(width, seed) for seed in range(4)) / 4 for width in (64, 256, 1024)]
    # The theorem bounds the distance by a multiple of 1/√width.
    for coarse, fine in pairwise(errors):
        assert coarse / fine > 2
    assert errors[-1] < 0.05


K, Y = torch.eye(4, dtype=F64), torch.ones(2, 2, dtype=F64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": -1.0}, "t: expected times, 0 or greater, got -1.0"),
        ({"t": [0.0, math.nan]}, r"t: expected times, 0 or greater, got \[0.0, nan\]"),
        ({"t": []}, r"t: expected times, 0 or greater, got \[\]"),
        ({"t": "end"}, "t: expected times, 0 or greater, got 'end'"),
        ({"t": True}, "t: expected times, 0 or greater, got True"),
        ({"steps": 1.5}, "steps: expected whole numbers, 0 or greater, got 1.5"),
        ({"steps": -2}, "steps: expected whole numbers, 0 or greater, got -2"),
        ({"steps": math.inf}, "steps: expected whole numbers, 0 or greater, got inf"),
        ({"t": 1.0, "steps": 2}, "steps: expected None beside t, got both"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a finite number, got nan"),
        (
            {"steps": 10**4, "learning_rate": 100.0},
            "learning_rate: expected one at which the outputs stay finite, got an overflow",
        ),
        ({"K_train": K.tolist()}, "K_train: expected a torch.Tensor, got list"),
        ({"K_train": K.half()}, "K_train: expected a dtype of float32 or float64, got torch.float"),
        (
            {"K_train": K[:3]},
            r"K_train: expected \[4, 4\] or \[2, 2\] for y_train \[2, 2\], got \[",
        ),
        ({"K_train": K[:3, :3]}, r"K_train: expected \[4, 4\] or \[2, 2\] for y_train"),
        ({"K_train": -K}, "K_train: expected a positive semidefinite kernel, got an eigenvalue of"),
        (
            {"K_train": K.triu() + K.roll(1, 1)},
            "K_train: expected a symmetric kernel, got one that",
        ),
        ({"K_train": K / 0}, "K_train: expected finite numbers, got"),
        ({"y_train": Y.tolist()}, "y_train: expected a torch.Tensor, got list"),
        ({"y_train": Y.float()}, "y_train: expected torch.float64 on cpu, got torch.float32"),
        ({"y_train": Y[0, 0]}, "y_train: expected 1 axes, got shape"),
        ({"y_train": Y[:0]}, r"y_train: expected targets \[B, …\], none empty, got \[0, 2\]"),
        ({"y_train": Y * math.nan}, "y_train: expected finite numbers, got 4 NaN"),
        ({"K_test": K[:3]}, "K_test: expected a multiple of 2 rows, one per output, got 3"),
        (
            {"K_test": K[:, :2]},
            r"K_test: expected shape \[rows, rows of K_train\] = \[any, 4\], got",
        ),
        ({"K_test": K * math.nan}, "K_test: expected finite numbers, got 16 NaN"),
        ({"f_train": Y[0]}, "f_train: expected 2 axes, got shape"),
        ({"f_train": Y[:1]}, r"f_train: expected shape that of y_train = \[2, 2\], got \[1, 2\]"),
        ({"f_train": Y * math.inf}, "f_train: expected finite numbers, got 4 NaN"),
        ({"f_test": Y}, r"f_test: expected None without K_test, got shape \[2, 2\]"),
        ({"K_test": K, "f_test": Y[:1]}, r"f_test: expected shape \[B_test, …\] = \[2, 2\], got"),
        ({"K_test": K, "f_test": Y * math.inf}, "f_test: expected finite numbers, got 4 NaN"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}") as error:
        predict_mse(**{"K_train": K, "y_train": Y, **change})
    assert "\n" not in str(error.value)


def test_arguments_stay_and_need_no_gradient() -> None:
    call = given(*problem())
    before = {name: value.clone() for name, value in call.items()}
    predict_mse(**call, t=[1.0, 2.0])
    assert all(torch.equal(value, before[name]) for name, value in call.items())
    tracked = {name: value.clone().requires_grad_() for name, value in call.items()}
    assert not predict_mse(**tracked, steps=2).train.requires_grad  # type: ignore[arg-type]
