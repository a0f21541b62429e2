"""Figures 14 and 15: the numbers taken from a trajectory, and the claims that are judged on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpr.experiment.specification import RunSpec
from hpr.figures import Figure, Settings, discover
from hpr.figures.definitions.trajectories import rank_left, settling, task_rank

QUICK = Settings()
FIGURES = discover()
TIMES = [0, 1, 2, 4, 8, 16, 32]


def record(spec: RunSpec, *, reverse: bool = False) -> dict[str, Any]:
    """A run that agrees with the paper, or one that does the opposite."""
    rank = spec.connectivity.rank  # type: ignore[attr-defined]
    order = np.log(rank) / np.log(300)
    noise = 1e-3 * np.random.default_rng([spec.seed, rank]).normal()
    if reverse:
        order = 1 - order
    task = task_rank(spec) if spec.activation == "linear" else 2.0
    ranks = [task + 6 + noise, task + 1 + noise]
    if reverse:
        ranks = ranks[::-1]
    settles = 24 - 16 * order + noise
    course = [min(1.0, 0.2 + 0.8 * (time / settles) ** 2) for time in TIMES]
    return {
        "key": spec.key,
        "status": "finished",
        "iterations": 32,
        "measures": {
            "kernel_alignment": 0.3 + 0.6 * order + noise,
            "task_kernel_alignment_final": course[-1],
            "centred_kernel_alignment_final": 0.1 + 0.1 * order + noise / 10,
            "kernel_effective_rank_initial": ranks[0],
            "kernel_effective_rank_final": ranks[1],
        },
        "trajectory": {
            "iteration": TIMES,
            "kernel_alignment": [1.0] * 6 + [0.3 + 0.6 * order],
            "task_kernel_alignment": course,
            "centred_kernel_alignment": course,
            "kernel_effective_rank": [ranks[0]] * 6 + [ranks[1]],
        },
        "flags": [],
        "provenance": {},
    }


def records(figure: Figure, **how: Any) -> dict[str, dict[str, Any]]:
    return {spec.key: record(spec, **how) for spec in figure.runs(QUICK)}


def test_both_figures_share_their_runs() -> None:
    assert FIGURES["14"].runs(QUICK) == FIGURES["15"].runs(QUICK)
    assert {spec.checkpoints for spec in FIGURES["14"].runs(QUICK)} == {32, 16}
    paper = FIGURES["14"].panels(Settings(profile="paper", smnist="sMNIST"))
    assert [panel.levels for panel in paper] == [("1", "5", "20"), ("5", "30", "300")]


@pytest.mark.parametrize("name", ["14", "15"])
@pytest.mark.parametrize(("reverse", "verdict"), [(False, "agrees"), (True, "disagrees")])
def test_claims_judge_the_trajectories(name: str, reverse: bool, verdict: str) -> None:
    figure = FIGURES[name]
    findings = figure.judge(QUICK, records(figure, reverse=reverse))
    assert len(findings) == {"14": 4, "15": 6}[name]
    assert {finding.verdict for finding in findings} == {verdict}


@pytest.mark.parametrize(
    ("course", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.9, 1.0], 4 * 2**0.5),
        ([1.5, 1.5, 1.0, 1.0, 1.0], 2**0.9),
        ([1.0, 1.01, 0.99, 1.0, 1.0], 0.0),
        ([1.0, 1.0, 1.5, 1.0, 1.0], 2 * 2**0.9),
    ],
    ids=["rises", "falls", "settled", "comes back"],
)
def test_settling_is_where_the_course_stays_within_five_percent(
    course: list[float], expected: float
) -> None:
    """The value is interpolated along the logarithm of iterations 0, 1, 2, 4, 8."""
    made = {"trajectory": {"iteration": [0, 1, 2, 4, 8], "task_kernel_alignment": course}}
    [spec, *_] = FIGURES["14"].runs(QUICK)
    assert settling(spec, made) == pytest.approx(expected)


def test_the_linear_tasks_effective_rank_is_that_of_its_final_kernel() -> None:
    """Eigenvalues of ββ^T / |β|² + 1 in d = 20 dimensions: one 2 and nineteen 1."""
    [spec, *_] = FIGURES["14"].runs(QUICK)
    assert task_rank(spec) == (2 + 19) / 2
    made = {"measures": {"kernel_effective_rank_initial": 3.0, "kernel_effective_rank_final": 11.0}}
    assert [rank_left(end)(spec, made) for end in ("initial", "final")] == [7.5, 0.5]


def test_lost_runs_are_told_in_the_legend() -> None:
    figure = FIGURES["14"]
    made = records(figure)
    lost = next(spec for spec in figure.runs(QUICK) if spec.N == 300 and spec.checkpoints == 16)
    made[lost.key] = {"status": "diverged", "iterations": 3, "measures": {}}
    picture = figure.plot(QUICK, made)
    legends = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in picture.axes]
    assert [legend[0] for legend in legends] == ["rank 1"] * 2 + ["rank 5 (5 of 6 runs)"] * 2
    # Each run is a line and a dot, and each rank has one line for the mean.
    assert [len(axes.lines) for axes in picture.axes] == [39, 39, 37, 37]
    assert figure.judge(QUICK, made)[2].seeds == 5
