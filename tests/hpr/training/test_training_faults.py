"""Invalid data are an error that names the task, and never a network that diverged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpr.connectivity import LowRank
from hpr.experiment import store
from hpr.experiment.execution import run_local
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, Trials, make_task
from hpr.tasks.base import Split
from hpr.training.loop import train_pack
from hpr.training.trials import WINDOW

CPU = torch.device("cpu")
SMALL = RunSpec("2AF", LowRank(rank=2), seed=0, N=33, iterations=30, trials=64, kernel_trials=8)


class Faulty(Task):
    """This is 2AF, but one seed's inputs or targets are invalid at one iteration."""

    def __init__(self, seed: int, iteration: int, part: str, value: float) -> None:
        self.inner = make_task("2AF")
        for name in ("name", "version", "label", "N_in", "N_out", "T"):
            setattr(self, name, getattr(self.inner, name))
        self.seed, self.iteration, self.part, self.value = seed, iteration, part, value

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        trials = self.inner.draw(seed, start, count, batch, split)
        here = self.iteration - start
        if seed == self.seed and split == "train" and 0 <= here < count:
            getattr(trials, self.part)[here, -1, 0] = self.value
        return trials


FAULTS = {
    "NaN": ("inputs", float("nan"), "2AF: expected finite inputs, got 3 NaN or infinite"),
    "infinite": ("inputs", float("-inf"), "2AF: expected finite inputs, got 3 NaN or infinite"),
    "beyond": ("targets", 3, "2AF: expected targets from 0 to N_out - 1 = 2, got 3"),
    "negative": ("targets", -1, "2AF: expected targets from 0 to N_out - 1 = 2, got -1"),
}


@pytest.mark.parametrize("iteration", [0, WINDOW + 50])
@pytest.mark.parametrize(("part", "value", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_data_is_no_divergence(
    part: str, value: float, message: str, iteration: int, tmp_path: Path
) -> None:
    """The error names the task, and no record is kept, so a mended task is trained anew."""
    spec = replace(SMALL, seed=1, iterations=WINDOW + 100)
    task = Faulty(1, iteration, part, value)
    outcome = run_local(
        [spec], store.Store(tmp_path), lambda _: task, train_pack, CPU, lambda line: None
    )
    assert outcome.records == {}
    assert outcome.failures[spec.key].reason.startswith(f"ValueError: {message}, in the train tri")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("part", "value", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_data_is_one_on_its_way_to_the_card_too(
    part: str, value: float, message: str
) -> None:
    from hpr.training.feed import Feed

    feed = Feed([replace(SMALL, seed=1)], Faulty(1, 2, part, value), CPU)
    with pytest.raises(ValueError, match=message):
        feed.load(0, 4)


def test_a_task_of_another_dt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task: expected time steps of 100.0 ms, got 20.0 ms"):
        train_pack([SMALL], make_task("2AF", dt=20), device=CPU)
