"""The comparisons: all methods give one training; the planner times orders; every launch has a floor."""

from __future__ import annotations

import random

import pytest
import torch

from benchmarks import gpu, planner
from benchmarks.peers.training_methods import by_jax, difference, training_methods
from benchmarks.suites.calls import ntk_call
from benchmarks.suites.cases import SHAPES, NetworkShape, figure_1_pack, pack_of_runs
from hpr.command_line import UsageError
from hpr.tasks import make_task
from hpr.training.initial import initial_pack
from hpr.training.trials import trials
from hpr_kernels import report
from hpr_kernels.testing import relative_error

SMALL = {
    "all": NetworkShape(3, 4, 2, 3, "all", N=7),
    "last": NetworkShape(3, 4, 2, 3, "last", N=7),
}


def test_every_method_trains_the_same_networks() -> None:
    task, cpu = make_task("2AF"), torch.device("cpu")
    specs = pack_of_runs(task, R=5, N=20, B=4)
    batches = list(trials(specs, task, 0, 3, cpu))
    methods = training_methods(specs, task, cpu, compiled=False)
    assert [method.networks for method in methods] == [5, 5, 5, 4, 4]
    for method in methods:
        assert difference(method, batches) < 1e-4, method.name


# Torch's compiler calls what torch has deprecated.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.nightly
def test_the_compiled_method_and_jax_train_the_same_networks() -> None:
    """Compilation takes a minute; jax is installed in an environment of its own."""
    task, cpu = make_task("2AF"), torch.device("cpu")
    specs = pack_of_runs(task, R=2, N=20, B=4)
    batches = list(trials(specs, task, 0, 3, cpu))
    (compiled,) = (m for m in training_methods(specs, task, cpu) if "compile" in m.name)
    assert difference(compiled, batches) < 1e-4
    found = by_jax(specs, task, batches, rounds=1)
    assert found.differs < 1e-4
    assert found.seconds > 0


@pytest.mark.parametrize("shape", [SMALL["all"], SMALL["last"]], ids=["all", "last"])
def test_the_planners_jacobian_gives_the_kernel_of_its_weights(shape: NetworkShape) -> None:
    groups = ("recurrent", "input")
    expected = ntk_call(shape, parameters=groups)()
    assert relative_error(planner.factored_jacobian(shape).gram(), expected) < 1e-5


def test_the_planner_times_the_chosen_order() -> None:
    times = planner.times_of_orders(SMALL["all"], longest=1.0)
    assert times is not None
    assert times["auto"] in [times[order] for order in planner.ORDERS if order in times]


def test_the_planner_leaves_out_what_is_too_large() -> None:
    assert planner.times_of_orders(SHAPES["large"]._replace(outputs="all"), longest=1.0) is None


def test_shapes_come_from_the_seed() -> None:
    first, second = (planner.random_shape(random.Random(3)) for _ in range(2))
    assert first == second


def test_every_launch_of_an_iteration_has_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the launches are those of the Triton kernels")
    from hpr.training.fused_step import FusedStep

    task = make_task("2AF")
    spec = figure_1_pack(task, R=1, N=300)[0]
    step = FusedStep(initial_pack([spec], task, torch.device("cpu")), spec, task)
    ((x, targets),) = trials([spec], task, 0, 1, torch.device("cpu"))
    assert len(step.launches(x, targets, step.seed, step.sums)) == len(gpu.LAUNCHES)
    floors = gpu.launch_floors(spec, task)
    assert len(floors) == len(gpu.LAUNCHES)
    assert min(floors) > 0
    renamed = [one for one in report.specimens() if not one.name.startswith("update of the")]
    monkeypatch.setattr(report, "specimens", lambda: renamed)
    with pytest.raises(
        UsageError, match=r"floors: expected 'update of the readout, N = 300, T = 8"
    ):
        gpu.launch_floors(spec, task)
