"""Whole runs by the C kernels in fp32 err at most twice as much as torch, from torch in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_native_step import CPU, errs_at_most_twice_as_much, options

from hpr.connectivity import Dense
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.initial import initial_pack
from hpr.training.trials import chunks
from hpr_kernels.native import library

pytestmark = pytest.mark.skipif(
    library.library() is None, reason="the installation has built no C kernels"
)
# With ReLU, a rate within rounding of zero may round to either side, which changes the gradient by more than rounding.
# In long runs some of the many rates are as near to zero, so these runs have linear units.
RUNS: dict[str, dict[str, Any]] = {
    "2AF": {"batch": 32}, "DMS": {"batch": 32}, "CXT": {"batch": 32},
    "sDigits": {"batch": 200},
    "Digits": {"batch": 32, "model": "two_layer"},
    "student-teacher(d=5,kappa=3)": {"batch": 256, "model": "two_layer"},
    "pattern generation": {"batch": 1, "dt": 20.0},
    "pattern generation, batch": {"batch": 32, "dt": 20.0},
    "pattern generation, 1000 steps": {"batch": 1, "dt": 1.0, "activation": "linear"},
    "pattern generation, 16000 rows": {"batch": 32, "dt": 2.0, "activation": "linear", "N": 33},
}  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_run_errs_at_most_twice_as_much_as_torch(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five iterations of two networks at the sizes of the paper; sums over rows have up to 16,000 terms."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    change = {"N": 300, "iterations": 5, "trials": 8, "kernel_trials": 4} | RUNS[name]
    task = make_task(name.partition(", ")[0], dt=change.get("dt", 100.0))
    specs = [
        RunSpec(task.name, Dense(), seed=seed, task_version=task.version, **change)
        for seed in (0, 1)
    ]
    pack = initial_pack(specs, task, CPU)
    [(index, x, targets)] = chunks(specs, task, 0, 5)
    arguments = {
        "x": x, "targets": targets, "weights": pack.weights, "readout": pack.readout,
        "velocity": torch.zeros_like(pack.weights), "constraint": None, "trials": index,
        "readout_velocity": torch.zeros_like(pack.readout),
    }  # fmt: skip
    spec = specs[0]
    how = options(
        rho=None if spec.model == "two_layer" else spec.rho, activation=spec.activation,
        first=task.T - 1 if task.loss_steps == "last" else 0, learning_rate=spec.learning_rate,
    )  # fmt: skip
    errs_at_most_twice_as_much(arguments, how)
