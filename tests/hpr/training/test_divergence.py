"""A network that diverges is recorded as such, and no neighbour in its pack is affected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpr.connectivity import LowRank
from hpr.experiment import store
from hpr.experiment.execution import run_local
from hpr.experiment.plan import tasks
from hpr.experiment.record import identity as record_identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, Trials, make_task
from hpr.tasks.base import Split
from hpr.training.cohort import Cohort, Learner
from hpr.training.evaluation import Diverged, Evaluation, evaluation
from hpr.training.initial import initial_pack
from hpr.training.loop import train_pack
from hpr.training.pack import Pack, tangent_kernel
from hpr.training.trials import WINDOW

CPU = torch.device("cpu")
SMALL = RunSpec("2AF", LowRank(rank=2), seed=0, N=33, iterations=30, trials=64, kernel_trials=8)


def specs(count: int, **change: Any) -> list[RunSpec]:
    ranks = (1, 2, 33)
    return [
        replace(SMALL, connectivity=LowRank(rank=ranks[i % 3]), seed=i // 3, **change)
        for i in range(count)
    ]


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


class Exploding(Task):
    """This is 2AF, but one seed's inputs are the largest fp32 number from an iteration on, so its network overflows."""

    size = float(np.finfo(np.float32).max)

    def __init__(self, seed: int, iteration: int) -> None:
        self.inner = make_task("2AF")
        for name in ("name", "version", "label", "N_in", "N_out", "T", "loss_steps", "batch_size"):
            setattr(self, name, getattr(self.inner, name))
        self.seed, self.iteration = seed, iteration

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        trials = self.inner.draw(seed, start, count, batch, split)
        inputs = trials.inputs.copy()
        if seed == self.seed and split == "train":
            inputs[max(0, self.iteration - start) :] = self.size
        return replace(trials, inputs=inputs)


@pytest.mark.parametrize("iteration", [3, WINDOW + 50])
def test_divergence_is_recorded_and_hurts_no_neighbour(iteration: int) -> None:
    runs = [replace(SMALL, seed=s, iterations=WINDOW + 100) for s in range(3)]
    records = train_pack(runs, Exploding(1, iteration), device=CPU)
    assert [r["status"] for r in records] == ["finished", "diverged", "finished"]
    assert records[1]["iterations"] == iteration
    assert records[1]["measures"] == {}
    assert records[1]["flags"] == [f"loss not finite at iteration {iteration}"]
    clean = train_pack([runs[0], runs[2]], make_task("2AF"), device=CPU)
    assert [identity(records[0]), identity(records[2])] == [identity(r) for r in clean]


class Overflowing(Exploding):
    """In this 2AF, one seed's inputs are so large from an iteration on that its step overflows, but not its loss."""

    size = 1e12


def test_weights_that_overflow_at_the_end_hurt_no_neighbour() -> None:
    """The last iteration's loss is finite, but the weights after it cannot be measured."""
    runs = [replace(SMALL, seed=s, iterations=20) for s in range(3)]
    task = Overflowing(1, 19)
    records = train_pack(runs, task, device=CPU)
    assert [r["status"] for r in records] == ["finished", "diverged", "finished"]
    assert records[1]["measures"] == {}
    [flag] = records[1]["flags"]
    assert flag.endswith(" not finite after iteration 20")
    clean = train_pack([runs[0], runs[2]], make_task("2AF"), device=CPU)
    assert [identity(records[0]), identity(records[2])] == [identity(r) for r in clean]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        ValueError("a bug"),
        # The error's words are those of a divergence, but only its class counts.
        ValueError("x: expected finite numbers, got 1 NaN or infinite"),
    ],
    ids=str,
)
@pytest.mark.parametrize("points", [0, 2])
def test_what_raises_while_measuring_is_no_divergence_and_leaves_no_record(
    error: Exception, points: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks whose numbers are finite have not diverged, so a later call must try them again."""
    calls = []

    def fail(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        # The first call computes the kernel at the start.
        if len(calls) > 1:
            raise error
        return tangent_kernel(*arguments)

    monkeypatch.setattr("hpr.training.evaluation.tangent_kernel", fail)
    spec = replace(SMALL, checkpoints=points)
    outcome = run_local([spec], store.Store(tmp_path), tasks(), train_pack, CPU, lambda line: None)
    assert outcome.records == {}
    assert outcome.failures[spec.key].reason == f"{type(error).__name__}: {error}"
    assert not (tmp_path / "runs").exists()


def overflowing(**scales: float) -> tuple[Evaluation, Pack]:
    """Return a network's evaluation, and the network with some weights scaled, all of them finite."""
    task = make_task("2AF")
    before = initial_pack([SMALL], task, CPU)
    after = before.select([0])
    for name, scale in scales.items():
        getattr(after, name).mul_(scale)
        assert bool(getattr(after, name).isfinite().all())
    return evaluation(SMALL, task, before), after


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"recurrent": 1e20, "input": 1e20}, "rates not finite"),
        ({"recurrent": 100, "input": 1e-30, "readout": 1e38}, "adjoints not finite"),
        ({"readout": 1e25}, "kernel not finite"),
        ({"readout": 1e10}, r"weights changed by [\d.]+e\+0[89] times their initial norm"),
    ],
)
def test_finite_weights_may_have_diverged_too(scales: dict[str, float], message: str) -> None:
    of_run, after = overflowing(**scales)
    with pytest.raises(Diverged, match=message):
        of_run.measures(after)


def test_a_large_change_that_initial_weights_survive_is_no_divergence() -> None:
    """1/eps of fp32 is 8.4e6; the readout is a part of the weights, so its change counts for less."""
    of_run, after = overflowing(readout=1e6)
    measures, _ = of_run.measures(after)
    assert 1e5 < measures["weight_change_norm_all"] < 1e8


def test_an_enormous_change_is_recorded_as_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its units are dead, so that its loss, of outputs of zero, is finite."""

    def killed(self: Cohort, leaving: Sequence[Learner]) -> None:
        leave(self, leaving)
        for learner in leaving:
            learner.tensors["weights"].fill_(-1e19)

    leave = Cohort.leave
    monkeypatch.setattr(Cohort, "leave", killed)
    (record,) = train_pack([SMALL], make_task("2AF"), device=CPU)
    assert (record["status"], record["measures"]) == ("diverged", {})
    (flag,) = record["flags"]
    assert "times their initial norm after iteration 30" in flag


def test_an_infinite_measure_is_null_and_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpr.training.evaluation.kernel_effective_rank", lambda K: float("inf"))
    (record,) = train_pack([SMALL], make_task("2AF"), device=CPU)
    json.dumps(record, allow_nan=False)
    assert record["status"] == "finished"
    assert record["measures"]["kernel_effective_rank_final"] is None
    assert record["flags"] == [
        f"kernel_effective_rank_{end} is infinite" for end in ("initial", "final")
    ]


def test_all_may_diverge() -> None:
    seen: list[int] = []
    runs = [replace(SMALL, seed=1, connectivity=LowRank(rank=r), iterations=250) for r in (1, 2)]
    records = train_pack(runs, Exploding(1, 0), device=CPU, progress=seen.append)
    assert [r["status"] for r in records] == ["diverged"] * 2
    assert sum(seen) == 250
