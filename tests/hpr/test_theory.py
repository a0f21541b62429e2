"""Each check of the theory accepts the paper's equation and rejects a slightly wrong one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpr.figures.definitions.theory_figure import Theory, check_finding, size
from hpr.figures.settings import Settings
from hpr.figures.summary import write_figure
from hpr.theory import (
    Check,
    CheckCase,
    Size,
    equations,
    expectation_checks,
    printed_checks,
    recurrent_checks,
    two_layer_checks,
)
from hpr.theory.check import ZERO_ERROR, standard_errors
from hpr.theory.networks import (
    LinearNetworks,
    draw_linear_networks,
    isotropic_spectrum,
    normal,
    recurrent_task,
    train_linear_networks,
    train_recurrent,
)
from hpr.theory.results import run_checks
from hpr.theory.statements import STATEMENTS

TASKS = 50_000
NETWORKS = 100


@pytest.fixture(scope="module")
def trained() -> list[two_layer_checks.Trained]:
    """Return trained networks of rank 1 and of full rank, at two σ."""
    return [
        two_layer_checks.train_tasks(d, rank, sigma, NETWORKS)
        for d, rank in ((2, 1), (5, 5))
        for sigma in (0.03, two_layer_checks.SMALL_SIGMA)
    ]


@pytest.fixture(scope="module")
def losses() -> recurrent_checks.Losses:
    return recurrent_checks.train(R=2)


def verdicts(checks: list[Check]) -> list[str]:
    return [check.verdict for check in checks]


# These c are wrong: Eq. 15 as printed, wrong dimensions, no dependence on the task, other normalisations.
WRONG: dict[str, Callable[[int], float]] = {
    "Eq. 15 as printed": lambda d: 2 ** (-d / 2) / d,
    "1/(d+1)": lambda d: 1 / (d + 1),
    "1/(d-1)": lambda d: 1 / (d - 1),
    "0": lambda d: 0.0,
    "1": lambda d: 1.0,
    "1/d²": lambda d: 1 / d**2,
}


@pytest.mark.parametrize(
    "check",
    [
        expectation_checks.check_constant,
        expectation_checks.check_general_moment,
        expectation_checks.check_expectation,
    ],
    ids=["Lemma 2", "Eq. 18", "Eq. 21"],
)
def test_monte_carlo_accepts_1_over_d_alone(check: Callable[..., Check]) -> None:
    assert check(TASKS).verdict == "agrees"
    for wrong in WRONG.values():
        assert check(TASKS, wrong).verdict == "disagrees"


def test_too_few_tasks_are_inconclusive() -> None:
    assert expectation_checks.check_constant(100).verdict == "inconclusive"


def test_eq_7_is_exact() -> None:
    assert two_layer_checks.check_kernel().verdict == "agrees"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda X, W_1, W_2: X.mT @ (W_1.mT @ W_1) @ X,
        lambda X, W_1, W_2: equations.linear_network_kernel(X, W_1, 2**0.5 * W_2),
        lambda X, W_1, W_2: equations.linear_network_kernel(X, W_1, W_2) * (1 + 1e-12),
    ],
    ids=["no readout", "twice the readout", "a relative 1e-12"],
)
def test_a_wrong_eq_7_is_rejected(wrong: Callable[..., Tensor]) -> None:
    assert two_layer_checks.check_kernel(wrong).verdict == "disagrees"


def test_training_descends_the_loss_of_the_data(rng: torch.Generator) -> None:
    N, d, m = 4, 3, 6
    X = normal(d, m, rng=rng)
    start = LinearNetworks(0.3 * normal(1, N, d, rng=rng), 0.3 * normal(1, N, rng=rng))
    beta = normal(1, d, rng=rng)
    end = train_linear_networks(start, X, beta, step=0.01)
    assert (end.W_2[0] @ end.W_1[0] - beta[0]).norm() < 1e-9 * beta.norm()
    # Gradient flow conserves this matrix, and small steps nearly do.
    before, after = (
        net.W_1[0] @ net.W_1[0].mT - torch.outer(net.W_2[0], net.W_2[0]) for net in (start, end)
    )
    assert (after - before).norm() < 0.05 * before.norm()
    assert (end.W_1 - start.W_1).norm() > 0.5


def test_training_that_stands_still_is_an_error() -> None:
    start = LinearNetworks(torch.zeros(1, 2, 2).double(), torch.zeros(1, 2).double())
    eye = torch.eye(2).double()
    with pytest.raises(RuntimeError, match="training: expected errors below 1e-10, got 1"):
        train_linear_networks(start, eye, eye[:1], iterations=100)


def test_eq_8_and_14_hold_for_trained_networks(trained: list[two_layer_checks.Trained]) -> None:
    assert two_layer_checks.check_final_kernel(trained).verdict == "agrees"
    assert two_layer_checks.check_task_alignment(trained).verdict == "agrees"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda X, beta: 1.01 * equations.final_kernel(X, beta),
        lambda X, beta: equations.final_kernel(X, beta) / beta.norm(dim=-1)[:, None, None],
        lambda X, beta: (
            equations.final_kernel(X, beta) - beta.norm(dim=-1)[:, None, None] * X.mT @ X
        ),
    ],
    ids=["1 % too large", "no ‖β‖", "no identity"],
)
def test_a_wrong_eq_8_is_rejected(
    trained: list[two_layer_checks.Trained], wrong: Callable[..., Tensor]
) -> None:
    assert two_layer_checks.check_final_kernel(trained, wrong).verdict == "disagrees"


def test_what_eq_8_leaves_out_shrinks_as_sigma_squared(
    trained: list[two_layer_checks.Trained],
) -> None:
    large, small = (float(two_layer_checks.kernel_shares(run).median()) for run in trained[2:])
    assert small == pytest.approx(large, rel=0.1)


def test_a_wrong_eq_14_is_rejected(trained: list[two_layer_checks.Trained]) -> None:
    def wrong(M_0: Tensor, beta: Tensor) -> Tensor:
        d = beta.shape[-1]
        return equations.task_alignment(M_0, beta) * ((d + 3) / (d + 2)) ** 0.5

    assert two_layer_checks.check_task_alignment(trained, wrong).verdict == "disagrees"


def test_eq_14_is_the_alignment_of_eq_7_and_8(rng: torch.Generator) -> None:
    d = 4
    s = torch.tensor([3.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    net = draw_linear_networks(20, d + 1, s, sigma=1.7, rng=rng)
    X = torch.linalg.qr(normal(d + 2, d, rng=rng))[0].mT
    beta = normal(20, d, rng=rng)
    matrices = equations.batched_alignment(equations.final_kernel(X, beta), net.kernel(X))
    formula = equations.task_alignment(equations.second_moment(net.W_1, net.W_2), beta)
    torch.testing.assert_close(matrices, formula, rtol=1e-13, atol=0)


def test_the_mean_of_trained_tasks_is_eq_21(trained: list[two_layer_checks.Trained]) -> None:
    small = [run for run in trained if run.sigma == two_layer_checks.SMALL_SIGMA]
    assert "disagrees" not in verdicts(two_layer_checks.check_trained_expectation(small))
    wrong = two_layer_checks.check_trained_expectation(small, lambda d: 1 / (d + 1))
    assert verdicts(wrong) == ["disagrees", "disagrees"]


@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("ranks", ["one", "some", "all"])
def test_eq_18_is_eq_21_for_equal_norms(d: int, ranks: str, rng: torch.Generator) -> None:
    s = normal(d, rng=rng).abs()
    s[{"one": 1, "some": (d + 1) // 2, "all": d}[ranks] :] = 0
    M_0 = torch.diag(s.square()) + s.square().sum() * torch.eye(d).double()
    closed = equations.expected_alignment_of_spectrum(s, 0.3)
    torch.testing.assert_close(equations.expected_alignment(M_0, 0.3), closed, rtol=1e-14, atol=0)
    assert closed < equations.largest_expected_alignment(d) * 1.3 / (1 + 1 / d) * (1 + 1e-12)


def test_theorem_1_by_optimisation() -> None:
    check, optimum = expectation_checks.check_maximiser(4)
    assert check.verdict == "agrees"
    # The starts differ from the ends, and some are near the minimum.
    assert abs(optimum.starts - 0.2).max(axis=1).min() > 0.1
    assert optimum.starts.max() > 0.99
    at_the_end = equations.expected_alignment_of_spectrum(
        torch.from_numpy(optimum.ends).sqrt(), c=1 / 5
    )
    assert at_the_end.numpy() == pytest.approx(equations.largest_expected_alignment(5), rel=1e-13)


def test_proposition_1_needs_the_tasks_direction() -> None:
    assert two_layer_checks.check_proposition_1(20).verdict == "agrees"
    assert two_layer_checks.check_proposition_1(20, angle=1e-3).verdict == "disagrees"


def test_proposition_2(losses: recurrent_checks.Losses) -> None:
    assert verdicts(recurrent_checks.check_proposition_2(losses)) == ["agrees"] * 4 + ["disagrees"]
    # At ranks above the number of data points, any target is learned with W_h frozen.
    assert all(losses.frozen[rank].max() < ZERO_ERROR for rank in (12, 24))
    assert all(losses.frozen[rank].min() > 0.05 for rank in (1, 2, 3, 5))
    assert all(losses.leaky[rank].max() < ZERO_ERROR for rank in recurrent_checks.INITIAL_RANKS)


@pytest.mark.parametrize(
    ("field", "value", "broken"),
    [("frozen", 0.0, 0), ("trained", 1e-3, 1), ("reachable", 1e-3, 2), ("trained", math.nan, 1)],
)
def test_proposition_2_can_fail(
    losses: recurrent_checks.Losses, field: str, value: float, broken: int
) -> None:
    changed = {rank: torch.full_like(loss, value) for rank, loss in getattr(losses, field).items()}
    verdict = recurrent_checks.check_proposition_2(replace(losses, **{field: changed}))[
        broken
    ].verdict
    assert verdict == ("inconclusive" if math.isnan(value) else "disagrees")


def test_the_recurrent_network_is_eq_25(rng: torch.Generator) -> None:
    R, N, B = 2, 6, 4
    task = recurrent_task(R, (2, 5), N, 3, B, 0.0, rng)
    assert torch.linalg.matrix_rank(task.recurrent).tolist() == [2, 2, 5, 5]
    norms = task.recurrent.norm(dim=(1, 2))
    torch.testing.assert_close(norms[:2], norms[2:], rtol=1e-13, atol=0)
    X, W_h = task.x.mT, task.recurrent  # X_t [N, B]
    powers = W_h @ W_h @ X[:, 0] + W_h @ X[:, 1] + X[:, 2]
    torch.testing.assert_close(task.states(), W_h @ powers, rtol=1e-12, atol=1e-14)


def test_frozen_weights_stay(rng: torch.Generator) -> None:
    task = recurrent_task(2, (1,), 6, 2, 3, 0.3, rng)
    target = normal(2, 2, 3, rng=rng)
    loss, W_h = train_recurrent(task, target, freeze=True, iterations=5)
    assert torch.equal(W_h, task.recurrent)
    shorter, W_h = train_recurrent(task, target, freeze=False, iterations=5)
    assert not torch.equal(W_h, task.recurrent)
    assert (loss < 1).all()
    assert (shorter < 1).all()


def test_what_is_misprinted_disagrees_and_its_remedy_would_not() -> None:
    checks = printed_checks.check_printed_steps()
    assert verdicts(checks) == ["disagrees"] * 4
    density = checks[1].cases
    assert [case.measured for case in density] == pytest.approx([2**-1, 2**-2.5, 2**-10], rel=1e-9)
    uneven = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    assert printed_checks.stationarity(uneven) > 1
    assert printed_checks.stationarity(isotropic_spectrum(3, 2, 1.0)) < 1e-15


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "agrees"),
        ({"measured": 1.2}, "disagrees"),
        ({"measured": 0.8}, "disagrees"),
        ({"measured": 0.8, "relation": "at most"}, "agrees"),
        ({"measured": 1.2, "relation": "at most"}, "disagrees"),
        ({"measured": 0.8, "relation": "at least"}, "disagrees"),
        ({"resolution": 0.05}, "inconclusive"),
        ({"measured": math.nan}, "inconclusive"),
        ({"error": math.nan}, "inconclusive"),
    ],
    ids=str,
)
def test_the_rule(change: dict[str, float], verdict: str) -> None:
    case = replace(CheckCase("x", measured=1.05, expected=1.0, error=0.1, n=3), **change)
    assert Check(STATEMENTS["kernel"], (case,)).verdict == verdict


def test_standard_errors_are_two_sided_and_corrected() -> None:
    assert standard_errors(1) == pytest.approx(2.5758, abs=1e-4)
    assert standard_errors(5) == pytest.approx(3.0902, abs=1e-4)


def test_a_diverged_training_is_written_without_a_number(losses: recurrent_checks.Losses) -> None:
    gone = {rank: torch.full_like(loss, math.nan) for rank, loss in losses.trained.items()}
    check = recurrent_checks.check_proposition_2(replace(losses, trained=gone))[1]
    assert [group.mean for group in check_finding(check).groups] == [None, None]


@pytest.mark.parametrize("value", [1, 2.0])
def test_a_bad_size_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="tasks: expected an integer of at least 2, got"):
        Size(value, 2, 2, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seeds", "networks"), [(1, 2), (2, 2), (9, 9), (None, 6)])
def test_one_seed_is_enough_to_ask_for(seeds: int | None, networks: int) -> None:
    assert size(Settings(seeds=seeds)).networks == networks


@pytest.mark.nightly
def test_the_figure_states_its_claims_first_and_writes_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpr.figures.definitions.theory_figure.QUICK", Size(20_000, 50, 2, 2))
    figure, settings = Theory(), Settings()
    claims = figure.claims(settings)
    assert [found.claim for found in figure.judge(settings, {})] == claims
    write_figure(figure, settings, {}, {}, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"figure_theory.{ending}" for ending in ("json", "md", "pdf", "png", "svg")]
    content = json.loads((tmp_path / "figure_theory.json").read_text())
    assert content["verdicts"]["disagrees"] == 5
    assert content["rule"].startswith("Each case has a stated error")


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert expectation_checks.check_constant(1000) == expectation_checks.check_constant(1000)
    first, second = (two_layer_checks.train_tasks(3, 2, 0.01, 5).alignment for _ in range(2))
    assert torch.equal(first, second)


def test_the_numbers_do_not_depend_on_the_threads_of_the_program() -> None:
    small = Size(100_000, 2, 2, 2)
    one = run_checks(small)
    torch.set_num_threads(2)
    try:
        two = run_checks.__wrapped__(small)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert two.checks == one.checks
