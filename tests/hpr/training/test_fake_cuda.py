"""The host's part of training on CUDA: a fake card does its work as late as it may, at random, or in another order.

All numbers must be those of the same step on the CPU, where everything is done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
import torch
from torch import Tensor
from torchs_rounding import PATTERN, THREE_OUTPUTS, task_of

from hpr.connectivity import Dale, LowRank
from hpr.experiment.record import identity
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training import loop, session, snapshot, trials
from hpr.training.feed import Feed
from hpr.training.fused_step import FusedStep
from hpr.training.initial import initial_pack

WINDOW = 4
ORDERS = {
    "late": fake_cuda.late,
    "eager": fake_cuda.eager,
    "first stream ahead": fake_cuda.favouring(last=False),
    "last stream ahead": fake_cuda.favouring(last=True),
    **{f"random {seed}": fake_cuda.randomly(seed) for seed in range(4)},
}
in_each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=17, batch=5, iterations=5 * WINDOW + 2, trials=8, kernel_trials=4
)  # fmt: skip


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch does the work of the kernels, and windows are short."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", "torch")
    for module in (session, snapshot, trials):
        monkeypatch.setattr(module, "WINDOW", WINDOW)


TEACHER = "student-teacher(d=5,kappa=3)"
# All trials of a pattern are the same.
FROZEN = {"batch": 1, "trials": 1, "kernel_trials": 1}


def runs(task: Task, count: int = 4, **change: Any) -> list[RunSpec]:
    base = replace(SMALL, task=task.name, task_version=task.version, **change)
    structures = [change.get("connectivity") or LowRank(rank=1 + i) for i in range(count)]
    return [
        replace(base, connectivity=structure, seed=i // 2) for i, structure in enumerate(structures)
    ]


def fed(order: fake_cuda.Order, spoil: Callable[[Feed], None]) -> int:
    """Feed five windows and a part of one; return how many chunks a reader on the card saw wrong."""
    task = make_task("2AF")
    specs = runs(task)
    seen = []
    with fake_cuda.pretend(order):
        feed = Feed(specs, task, torch.device("cuda"))
        spoil(feed)
        for start in range(0, SMALL.iterations, feed.chunk):
            size = min(feed.chunk, SMALL.iterations - start)
            feed.load(start, size)
            seen.append((start, size, feed.x[:, :size].clone()))
            feed.prefetch(start + size)
        del feed
    wrong = 0
    for start, size, x in seen:
        wanted = np.stack([task.draw(seed, start, size, SMALL.batch).inputs for seed in (0, 1)])
        wrong += not np.array_equal(x.numbers.numpy(), wanted)
    return wrong


@in_each_order
def test_a_feed_gives_each_chunk_whole(order: fake_cuda.Order) -> None:
    assert fed(order, lambda feed: None) == 0


NOTHING = SimpleNamespace(record=lambda stream: None, synchronize=lambda: None, at=None)


def without_moved(feed: Feed) -> None:
    feed._moved = NOTHING


def without_uploaded(feed: Feed) -> None:
    feed._uploaded = NOTHING


def without_waiting(feed: Feed) -> None:
    feed._stream.wait_stream = lambda other: None
    draw = feed._draw

    def drawn(start: int, size: int) -> None:
        draw(start, size)
        # `load` waits for a stream that has nothing to do.
        feed._stream = fake_cuda.Stream(feed._stream.card, 0)

    feed._draw = drawn


@pytest.mark.parametrize("spoil", [without_moved, without_uploaded, without_waiting])
def test_a_lost_wait_shows(spoil: Callable[[Feed], None]) -> None:
    """This tests the fake: each of the feed's waits is needed in some order."""
    assert any(fed(order, spoil) for order in ORDERS.values())


def state(step: FusedStep) -> list[Tensor]:
    values = (step.pack.weights, step.pack.readout, step.velocity, step.readout_velocity)
    return [value.cpu() for value in values]


def course(device: str, name: str, **change: Any) -> tuple[list[Tensor], list[int]]:
    """Five windows and a part of one, in which a network leaves after the second, and the replays of each graph."""
    task = task_of(name)
    specs = runs(task, **change)
    step = FusedStep(initial_pack(specs, task, torch.device(device)), specs[0], task)
    found: list[Tensor] = []
    replays = []
    for start in range(0, SMALL.iterations, WINDOW):
        losses, accuracies = step.window(specs, start, min(WINDOW, SMALL.iterations - start))
        assert (accuracies is None) == (task.loss == "mse")
        found += [value.cpu() for value in (losses, accuracies) if value is not None]
        if start == 2 * WINDOW:
            replays.append(step.graph.replays if step.graph else 0)
            going = [0, 2, 3]
            specs = [specs[i] for i in going]
            step = step.select(going)
    replays.append(step.graph.replays if step.graph else 0)
    return [*found, *state(step)], replays


@in_each_order
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("2AF", {}),
        ("CXT", {"connectivity": Dale(dale_throughout=True)}),
        ("sDigits", {}),
        ("CXT", {"activation": "linear"}),
        (PATTERN, FROZEN),
        (THREE_OUTPUTS, {}),
        (TEACHER, {"model": "two_layer"}),
        ("Digits", {"model": "two_layer", "activation": "linear"}),
    ],
    ids=[
        "2AF",
        "Dale",
        "last step",
        "linear",
        "regression",
        "regression, three outputs",
        "two layers, regression",
        "two layers",
    ],
)
def test_the_fused_step_trains_as_on_the_cpu(
    order: fake_cuda.Order, name: str, change: dict[str, Any]
) -> None:
    wanted, _ = course("cpu", name, **change)
    with fake_cuda.pretend(order):
        got, replays = course("cuda", name, **change)
    assert replays == [2, 1]
    for value, right in zip(got, wanted, strict=True):
        assert torch.equal(value, right)


def test_each_device_captures_on_a_stream_of_its_own() -> None:
    """Two cards train in turns; a capture on the other card's stream is an error, as it is in CUDA."""
    with fake_cuda.pretend(fake_cuda.late) as card:
        first, _ = course("cuda:0", "2AF")
        second, _ = course("cuda:1", "2AF")
    assert all(map(torch.equal, first, second))
    assert len(card.graphs) == 4


def test_a_feed_that_goes_leaves_its_memory_to_the_upload() -> None:
    """The upload of a chunk that nobody takes may still run when the feed's memory has a new owner."""
    task = make_task("2AF")
    specs = runs(task)

    def overwritten(record: bool) -> bool:
        with fake_cuda.pretend(fake_cuda.late) as card:
            feed = Feed(specs, task, torch.device("cuda"))
            if not record:
                for landed in feed._landing:
                    landed.record_stream = lambda stream: None
            feed.prefetch(0)
            numbers, upload = feed._landing[0].numbers, feed._stream
            del feed
            # The memory's next owner writes before the upload does.
            card.current().run()
            upload.run()
            return not bool(numbers.isnan().all())

    assert overwritten(record=False)
    assert not overwritten(record=True)


@pytest.mark.parametrize(
    ("name", "change", "gain", "ends"),
    [
        ("2AF", {"stop_accuracy": 0.7, "learning_rate": 0.1}, 100.0, {"stopped", "diverged"}),
        (PATTERN, FROZEN, 20.0, {"finished", "diverged"}),
        (TEACHER, {"model": "two_layer"}, 1e9, {"finished", "diverged"}),
        (
            "Digits",
            {"model": "two_layer", "activation": "linear", "learning_rate": 0.05}
            | {"stop_accuracy": 0.5},
            1.0,
            {"finished", "stopped"},
        ),
    ],
    ids=["2AF", "regression", "two layers, regression", "two layers"],
)
def test_a_whole_pack_trains_as_on_the_cpu(
    name: str, change: dict[str, Any], gain: float, ends: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop that trains every pack: runs that stop early, one that diverges, measures and trajectories."""
    monkeypatch.setattr(loop, "new_trainer", FusedStep)
    task = task_of(name)
    specs = runs(task, checkpoints=2, **change)
    specs[1] = replace(specs[1], connectivity=LowRank(rank=2, gain=gain))

    def records(device: str) -> list[dict[str, Any]]:
        found = loop.train_pack(specs, task, device=torch.device(device))
        return [{**identity(record), "provenance": None} for record in found]

    wanted = records("cpu")
    assert {record["status"] for record in wanted} >= ends
    for order in (fake_cuda.late, fake_cuda.randomly(5)):
        with fake_cuda.pretend(order):
            assert records("cuda") == wanted
