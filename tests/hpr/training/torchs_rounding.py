"""Results of a few iterations, and the check that they are as near to fp64 as torch's own in fp32 are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.tasks.array_task import ArrayTask
from hpr.training.initial import initial_pack
from hpr.training.pack import Pack
from hpr.training.step import Step
from hpr_kernels.testing import assert_close, relative_error

# Names of tasks that `task_of` makes, beside those of `make_task`.
PATTERN, THREE_OUTPUTS = "pattern generation", "three outputs"


def task_of(name: str) -> Task:
    """Return the task of a name; a regression with three outputs, of which the loss counts the last step, is one."""
    if name == PATTERN:
        return make_task(name, dt=100)
    if name != THREE_OUTPUTS:
        return make_task(name)
    drawn = np.random.default_rng(0)
    x = drawn.standard_normal((20, 5, 2), np.float32)
    y = np.concatenate([x.cumsum(1), np.tanh(x[..., :1])], 2)
    task = ArrayTask(name, {"inputs": x, "targets": y})
    task.loss_steps = "last"
    return task


def state(step: Any) -> tuple[Tensor, ...]:
    return (step.pack.weights, step.pack.readout, step.velocity, step.readout_velocity)


def batch(specs: list[RunSpec], task: Task, i: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of iteration `i` for every run."""
    drawn = [task.draw(spec.seed, i, 1, spec.batch) for spec in specs]
    x, targets = (
        torch.from_numpy(np.stack([getattr(d, part)[0] for d in drawn]))
        for part in ("inputs", "targets")
    )
    return x, targets


def trained(step: Any, specs: list[RunSpec]) -> list[Tensor]:
    """Return the curves, weights and velocities after five iterations."""
    losses, accuracies = step.window(specs, 0, 5)
    curves = (losses,) if accuracies is None else (losses, accuracies)
    return [value.cpu() for value in (*curves, *state(step))]


def trained_by_torch(
    pack: Pack, specs: list[RunSpec], task: Task, dtype: torch.dtype
) -> list[Tensor]:
    """Return what `trained` does, by `Step` on the CPU with inputs of `dtype`, which `Step.window` does not offer."""
    given = Pack(pack.weights.to(dtype), pack.readout.to(dtype), pack.N_in, pack.signs)
    return trained_on(Step(given.select(range(len(specs))), specs[0], task), specs, task, dtype)


def trained_on(step: Any, specs: list[RunSpec], task: Task, dtype: torch.dtype) -> list[Tensor]:
    """Return what `trained` does, with inputs and outputs of `dtype`."""
    drawn = (batch(specs, task, i) for i in range(5))
    points = [
        step(x.to(dtype), targets.to(dtype) if targets.is_floating_point() else targets)
        for x, targets in drawn
    ]
    curves = [torch.stack(list(c), 1) for c in zip(*points, strict=True) if c[0] is not None]
    return [*curves, *state(step)]


def renamed_units(pack: Pack, order: Tensor) -> Pack:
    """Return the same networks with their hidden units in another order: torch then sums in that order."""
    renamed = replace(pack, weights=pack.weights[:, order], readout=pack.readout[..., order])
    if renamed.recurrent.shape[-1]:
        renamed.recurrent.copy_(renamed.recurrent[..., order])
    return renamed


def torchs_errors(pack: Pack, specs: list[RunSpec], task: Task, exact: list[Tensor]) -> list[float]:
    """Return the relative error of each of torch's fp32 results: the worst of eight orders of the units.

    One order is one draw of the rounding errors: the error of a velocity, a difference of nearly equal terms, varies
    threefold between them, and with the matrix product that the machine's CPU is given.
    """
    N = pack.weights.shape[1]
    worst = [torch.finfo(torch.float32).eps] * len(exact)
    for order in map(torch.arange(N).roll, range(0, N, N // 8)):
        back = order.argsort()
        got = trained_by_torch(renamed_units(pack, order), specs, task, torch.float32)
        *curves, W, readout, W_velocity, readout_velocity = got
        end = renamed_units(replace(pack, weights=W, readout=readout), back)
        moved = renamed_units(replace(pack, weights=W_velocity, readout=readout_velocity), back)
        restored = [*curves, end.weights, end.readout, moved.weights, moved.readout]
        pairs = zip(worst, restored, exact, strict=True)
        worst = [max(error, relative_error(value, wanted)) for error, value, wanted in pairs]
    return worst


def assert_as_good_as_torch(
    got: list[Tensor], specs: list[RunSpec], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that no result differs from torch's fp64 by more than twice what torch's fp32 does, both on the CPU."""
    # Without this setting the interpreter would also compute torch's fp32 numbers.
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    pack = initial_pack(specs, task, torch.device("cpu"))
    exact = trained_by_torch(pack, specs, task, torch.float64)
    theirs = torchs_errors(pack, specs, task, exact)
    for value, wanted, error in zip(got, exact, theirs, strict=True):
        assert_close(value, wanted, 2 * error)
