"""The loop cuts windows where a trajectory has a point: the training stays the same, by both trainers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hpr.connectivity import LowRank
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training.initial import initial_pack
from hpr.training.step import Step
from hpr.training.trials import WINDOW


@pytest.mark.parametrize("kind", ["FusedStep", "Step"])
def test_a_window_that_is_cut_at_checkpoints_is_the_same(kind: str) -> None:
    """Curves, weights and velocities keep their bits. Torch serves both trainers here."""
    from hpr.training.fused_step import FusedStep

    task = make_task("2AF")
    specs = [
        RunSpec("2AF", LowRank(rank=1 + i), seed=i // 2, N=33, batch=8, iterations=WINDOW + 7)
        for i in range(3)
    ]
    pack = initial_pack(specs, task, torch.device("cpu"))
    results = []
    for ends in ((WINDOW, WINDOW + 7), (1, 4, 37, WINDOW, WINDOW + 3, WINDOW + 7)):
        trainer: Any = {"FusedStep": FusedStep, "Step": Step}[kind](
            pack.select(range(len(specs))), specs[0], task
        )
        pairs = zip((0, *ends), ends, strict=False)
        parts = [trainer.window(specs, start, end - start) for start, end in pairs]
        curves = [torch.cat(list(part), 1) for part in zip(*parts, strict=True)]
        velocities = (trainer.velocity, trainer.readout_velocity)
        results.append([*curves, trainer.pack.weights, trainer.pack.readout, *velocities])
    assert results[0][0].shape == (len(specs), WINDOW + 7)
    for whole, cut in zip(*results, strict=True):
        assert torch.equal(whole, cut)
