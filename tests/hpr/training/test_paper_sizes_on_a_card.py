"""Training on a card at the paper's sizes: every kind of run, graphs, select, divergence, and races inside a block.

Each test takes a device. On the CPU it runs with a few small networks, where torch serves the same step; that shows
that the test is right. The card's own sizes wait for a card.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchs_rounding import assert_as_good_as_torch, state, trained

from hpr.connectivity import CellTypes, Dale, LowRank
from hpr.experiment.record import identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training import loop
from hpr.training.fused_step import FusedStep
from hpr.training.initial import initial_pack
from hpr.training.loop import new_trainer, train_pack
from hpr.training.trials import WINDOW
from hpr_kernels.testing import assert_close, relative_error


@dataclass(frozen=True)
class Place:
    """A device and the sizes of the networks there."""

    device: str
    N: int
    batch: int

    def runs(self, task: Task, count: int = 3, **change: Any) -> list[RunSpec]:
        sizes = {"N": self.N, "batch": self.batch, "trials": 8, "kernel_trials": 4}
        base = RunSpec(task.name, LowRank(rank=2), seed=0, task_version=task.version, iterations=5)
        base = replace(base, **{**sizes, **change})
        return [replace(base, seed=i // 2) for i in range(count)]

    def step(self, specs: list[RunSpec], task: Task) -> Any:
        pack = initial_pack(specs, task, torch.device(self.device))
        # Torch serves `FusedStep` on the CPU; `new_trainer` would take another step there.
        if self.device == "cpu" and specs[0].model == "leaky_rnn" and task.loss == "cross_entropy":
            return FusedStep(pack, specs[0], task)
        return new_trainer(pack, specs[0], task)


def places(*, N: int = 300, batch: int = 32) -> pytest.MarkDecorator:
    card = pytest.param(Place("cuda", N, batch), marks=pytest.mark.gpu, id=f"cuda-{N}x{batch}")
    return pytest.mark.parametrize("place", [pytest.param(Place("cpu", 17, 3), id="cpu"), card])


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "2AF": ("2AF", {}),
    "Dale throughout": ("CXT", {"connectivity": Dale(dale_throughout=True)}),
    "cell types": ("DMS", {"connectivity": CellTypes(fraction=0.2)}),
    "linear": ("CXT", {"activation": "linear"}),
    "last step": ("sDigits", {}),
    "regression": ("pattern generation", {"dt": 20.0}),
    "two layers": ("Digits", {"model": "two_layer"}),
    "two layers, regression": ("student-teacher(d=5,kappa=3)", {"model": "two_layer"}),
}
each_kind = pytest.mark.parametrize(("name", "change"), KINDS.values(), ids=KINDS)


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(Place("cpu", 17, 3), id="cpu"),
        *(
            pytest.param(Place("cuda", N, 32), marks=pytest.mark.gpu, id=f"cuda-{N}")
            for N in (100, 297, 300, 600, 1000)
        ),
    ],
)
@each_kind
def test_every_kind_trains_as_on_the_cpu(
    name: str, change: dict[str, Any], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(name, change)
    specs = place.runs(task, **change)
    assert_as_good_as_torch(trained(place.step(specs, task), specs), specs, task, monkeypatch)


@places(batch=200)
def test_the_widest_batch_trains_as_on_the_cpu(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task("sDigits")
    specs = place.runs(task)
    assert_as_good_as_torch(trained(place.step(specs, task), specs), specs, task, monkeypatch)


@places()
@each_kind
def test_a_network_is_the_same_alone_and_in_a_pack(
    name: str, change: dict[str, Any], place: Place
) -> None:
    """On the card to the bit. On the CPU torch's products of one network may round otherwise."""
    task = task_of(name, change)
    specs = place.runs(task, 5, **change)
    together = trained(place.step(specs, task), specs)
    for r, spec in enumerate(specs):
        for one, all_ in zip(trained(place.step([spec], task), [spec]), together, strict=True):
            if place.device == "cuda":
                assert torch.equal(one[0], all_[r])
            else:
                assert_close(one[0], all_[r], 1e-5)


@places()
@pytest.mark.parametrize("name", ["CXT", "sDigits"])
def test_graphs_replay_through_select_and_part_of_a_chunk(name: str, place: Place) -> None:
    """Two whole windows, a select, a window and a part of one: as launched one by one."""
    task = make_task(name)
    replayed, eager = (course(place, task, graphs=graphs) for graphs in (True, False))
    for got, wanted in zip(replayed, eager, strict=True):
        assert torch.equal(got, wanted)


@places()
def test_repeated_runs_on_poisoned_memory_agree_to_the_bit(place: Place) -> None:
    """A race inside a block, or a read of memory that nobody wrote, would show as a difference."""
    task = make_task("sDigits")
    specs = place.runs(task)
    first = None
    for repeat in range(8):
        step = place.step(specs, task)
        for buffer in (step.g, step.dy, step.sums, step.potentials):
            buffer.fill_(torch.nan if repeat % 2 else 1e30)
        result = trained(step, specs)
        first = first or result
        assert all(map(torch.equal, result, first))


@places()
def test_runs_stop_and_diverge_within_replayed_windows(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records do not depend on graphs, though one network stops, one diverges and one overflows at once."""
    task = make_task("2AF")
    monkeypatch.setattr(loop, "new_trainer", lambda pack, spec, task: FusedStep(pack, spec, task))
    length = 4 * WINDOW + 30
    specs = place.runs(task, 4, iterations=length, learning_rate=0.05, stop_accuracy=0.7)
    specs[1] = replace(specs[1], connectivity=LowRank(rank=2, gain=40.0))
    specs[2] = replace(specs[2], connectivity=LowRank(rank=2, gain=1e12))

    def records() -> list[dict[str, Any]]:
        found = train_pack(specs, task, device=torch.device(place.device))
        return [{**identity(record), "provenance": None} for record in found]

    replayed = records()
    monkeypatch.setattr(FusedStep, "_advance", FusedStep._iterations)
    assert replayed == records()
    assert replayed[2]["status"] == "diverged"
    assert "stopped" in {record["status"] for record in replayed}


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_each_card_trains_alike(device: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    task = make_task("2AF")
    here, first = (course(Place(where, 300, 32), task, graphs=True) for where in (device, "cuda:0"))
    assert all(map(torch.equal, here, first))


@pytest.mark.gpu
@pytest.mark.parametrize("T", [28, 40])
def test_long_sweeps_at_tf32x3_are_as_good_as_torch(T: int, rng: torch.Generator) -> None:
    """N = 300 and a batch of 200: the sums of the paper's longest runs, in the precision that training takes."""
    from hpr_kernels import leaky_rnn

    x = torch.randn(1, T, 200, 28, generator=rng)
    recurrent = torch.randn(1, 300, 300, generator=rng) / 300**0.5
    input = torch.randn(1, 300, 28, generator=rng) / 28**0.5

    def rates_and_gradients(device: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = [v.to(device, dtype).requires_grad_() for v in (x, recurrent, input)]
        rates = leaky_rnn(*leaves, 0.367)
        rates.square().sum().backward()
        return [rates.detach().cpu(), *(leaf.grad.cpu() for leaf in leaves)]

    exact, single = (rates_and_gradients("cpu", dtype) for dtype in (torch.float64, torch.float32))
    for got, wanted, torchs in zip(
        rates_and_gradients("cuda", torch.float32), exact, single, strict=True
    ):
        theirs = max(relative_error(torchs, wanted), torch.finfo(torch.float32).eps)
        assert_close(got, wanted, 2 * theirs)


def task_of(name: str, change: dict[str, Any]) -> Task:
    return make_task(name, dt=change["dt"]) if "dt" in change else make_task(name)


def course(place: Place, task: Task, *, graphs: bool) -> list[Tensor]:
    """Losses, accuracies, weights and velocities of a training from which a network leaves."""
    specs = place.runs(task, 4, iterations=3 * WINDOW + 30)
    step = place.step(specs, task)
    found: list[Tensor] = []
    for start in range(0, specs[0].iterations, WINDOW):
        if not graphs:
            step._advance = step._iterations
        size = min(WINDOW, specs[0].iterations - start)
        found += [part.cpu() for part in step.window(specs, start, size)]
        if start == WINDOW:
            specs = [specs[i] for i in (0, 2, 3)]
            step = step.select([0, 2, 3])
    if place.device != "cpu":
        assert (step.graph is not None) == graphs
    return [*found, *(part.cpu() for part in state(step))]
