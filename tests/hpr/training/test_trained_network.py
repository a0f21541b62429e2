"""A trained network out of its record computes what the engine that trained it computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import hpr
from hpr.connectivity import Dale, Dense, LowRank
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.tasks import make_task
from hpr.training.loop import train_pack
from hpr.training.pack import Pack, rates
from hpr.training.weights import decoded
from hpr_kernels import layout

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=3, N=17, batch=5, iterations=4, trials=8, kernel_trials=4, keep_weights=True
)  # fmt: skip
RUNS = {
    "2AF": SMALL,
    "released": replace(SMALL, variant="released", leak="euler", ntk_parameters=("recurrent",), dt=20.0),
    "Dale": replace(SMALL, connectivity=Dale(dale_throughout=True)),
    "linear": replace(SMALL, activation="linear"),
    "two layers": replace(
        SMALL, task="student-teacher(d=5,kappa=3)", model="two_layer", connectivity=Dense()
    ),
}  # fmt: skip


@pytest.mark.parametrize("spec", RUNS.values(), ids=RUNS)
def test_outputs_are_the_engines(spec: RunSpec, tmp_path: Path) -> None:
    task = make_task(spec.task, dt=spec.dt)
    spec = replace(spec, task_version=task.version, content=task.content)
    (record,) = train_pack([spec], task, device=CPU)
    network = hpr.load(Store(tmp_path).save(record))
    again = hpr.load(record)
    weights = decoded(record["weights"])
    x = torch.from_numpy(task.draw(0, 0, 1, 6).inputs[0])
    assert x.shape == (task.T, 6, task.N_in)
    # The engine's own rates, on its joined weights.
    two = spec.model == "two_layer"
    W = (
        weights["input"]
        if two
        else layout.join(weights["recurrent"][None], weights["input"][None])[0]
    )
    pack = Pack(W[None], weights["readout"][None], task.N_in, torch.zeros(1, spec.N))
    wanted = rates(pack, x[None], spec)[0] @ weights["readout"].mT
    with torch.no_grad():
        assert torch.equal(network(x), again(x))
        np.testing.assert_allclose(network(x), wanted, rtol=1e-6, atol=1e-6)
    assert {name for name, _ in network.named_parameters()} == {"recurrent", "input", "readout"}
    network(x).square().sum().backward()
    assert network.readout.grad is not None


@pytest.mark.parametrize("other", [3, None, {}, [], hpr], ids=["3", "None", "{}", "[]", "hpr"])
def test_what_is_no_record_is_one_line(other: object) -> None:
    told = r"^run: expected a record or the path of its file runs/<key>\.json, got"
    with pytest.raises(TypeError, match=told):
        hpr.load(other)


def test_a_run_without_weights_is_one_line(tmp_path: Path) -> None:
    spec = replace(SMALL, keep_weights=False)
    (record,) = train_pack([spec], make_task("2AF"), device=CPU)
    path = Store(tmp_path).save(record)
    with pytest.raises(
        ValueError, match=r"^run: expected a run that kept its weights, got .*False$"
    ):
        hpr.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"^run: expected a valid record, got"):
        hpr.load(path)
    with pytest.raises(
        ValueError, match=r"^run: expected a run that kept its weights, got the rec"
    ):
        hpr.load({"spec": spec.to_dict()})
