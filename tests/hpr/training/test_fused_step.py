"""The fused kernels train by six launches per iteration and nothing else, like the CPU, and their graph is faithful.

A test with the argument `device` runs under Triton's interpreter (HPR_KERNELS_BACKEND=interpret), and on a card.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchs_rounding import (
    PATTERN,
    THREE_OUTPUTS,
    assert_as_good_as_torch,
    batch,
    state,
    task_of,
    trained,
    trained_on,
)

from hpr.connectivity import LowRank
from hpr.experiment.plan import PACK, pack_size
from hpr.experiment.plan import tasks as task_maker
from hpr.experiment.specification import RunSpec
from hpr.tasks import Task, make_task
from hpr.training.initial import initial_pack
from hpr.training.loop import new_trainer, train_pack
from hpr.training.pack import Pack
from hpr.training.step import Step
from hpr.training.trials import TRIAL_BYTES, WINDOW
from hpr_kernels.testing import assert_close

pytest.importorskip("triton")

HERE = Path(__file__).parent
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=33, batch=5, iterations=3, trials=8, kernel_trials=4
)
gpu = pytest.mark.gpu
on_each_device = pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.interpreter), pytest.param("cuda", marks=gpu)],
)
# The kinds of the paper's runs: a task, and what differs from `SMALL`.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "CXT": ("CXT", {}),
    "sDigits": ("sDigits", {}),
    "linear": ("CXT", {"activation": "linear"}),
    "linear, last step": ("sDigits", {"activation": "linear"}),
    "regression": (PATTERN, {"batch": 1, "trials": 1, "kernel_trials": 1}),
    "regression, three outputs": (THREE_OUTPUTS, {}),
    "two layers": ("Digits", {"model": "two_layer"}),
    "two layers, regression": ("student-teacher(d=5,kappa=3)", {"model": "two_layer"}),
    "two layers, linear": (
        "student-teacher(d=5,kappa=3)",
        {"model": "two_layer", "activation": "linear", "momentum": 0.0},
    ),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def runs(task: Task, count: int = 3, **change: Any) -> list[RunSpec]:
    base = replace(SMALL, task=task.name, task_version=task.version, **change)
    return [replace(base, connectivity=LowRank(rank=1 + i), seed=i // 2) for i in range(count)]


def fused(specs: list[RunSpec], task: Task, device: str) -> Any:
    step = new_trainer(initial_pack(specs, task, torch.device(device)), specs[0], task)
    assert type(step).__name__ == "FusedStep"
    return step


def made(kind: str) -> tuple[Task, list[RunSpec]]:
    """Return the task and three runs of a kind, of five iterations."""
    name, change = KINDS[kind]
    task = task_of(name)
    return task, runs(task, **{"iterations": 5, **change})


class Operations(TorchDispatchMode):
    """This records torch's operations except views: each would be a launch, an allocation or a wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@each_kind
def test_an_iteration_is_six_launches_and_nothing_else(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels of two iterations are recorded instead of launched."""
    from hpr.training import fused_step

    seen: list[str] = []
    for operation in ("trials", "recurrence", "loss", "update"):
        monkeypatch.setattr(f"hpr_kernels.{operation}.dispatch.uses_triton", lambda tensor: True)
        module = importlib.import_module(f"hpr_kernels.{operation}.triton")
        for kernel in vars(module).values():
            if hasattr(kernel, "run") and hasattr(kernel, "arg_names"):
                record = functools.partial(
                    lambda name, *_, **__: seen.append(name), kernel.__name__
                )
                monkeypatch.setattr(kernel, "run", record)
    task, specs = made(kind)
    pack = initial_pack(specs, task, torch.device("cpu"))
    step = fused_step.FusedStep(pack, specs[0], task)
    feed = fused_step.Feed(specs, task, torch.device("cpu"))
    sums = step.sums.new_empty(2, *step.sums.shape)
    with Operations() as operations:
        step._iterations(feed, sums)
    assert operations.seen == []
    assert seen == 2 * [
        "place_trials_kernel",
        "forward_kernel",
        "readout_loss_kernel",
        "sweep_kernel",
        "momentum_step_kernel",
        "momentum_step_kernel",
    ]


@on_each_device
@each_kind
def test_equals_the_cpu(kind: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task, specs = made(kind)
    got = trained(fused(specs, task, device), specs)
    assert_as_good_as_torch(got, specs, task, monkeypatch)


@each_kind
@pytest.mark.parametrize("activation", [None, "tanh"])
def test_torch_serves_the_fused_step(kind: str, activation: str | None) -> None:
    """Dispatch finds torch for every launch on the CPU, and both steps train alike in fp64."""
    from hpr.training.fused_step import FusedStep

    task, specs = made(kind)
    if activation is not None:
        if specs[0].model == "two_layer":
            pytest.skip("`Step` has no two-layer network of tanh units to compare with")
        # Runs cannot ask for tanh units, which the kernels have.
        object.__setattr__(specs[0], "activation", activation)
    pack = initial_pack(specs, task, torch.device("cpu"))
    double = Pack(pack.weights.double(), pack.readout.double(), pack.N_in, pack.signs)
    results = []
    for trainer in (FusedStep, Step):
        step = trainer(double.select(range(len(specs))), specs[0], task)
        results.append(trained_on(step, specs, task, torch.float64))
    for got, wanted in zip(*results, strict=True):
        assert wanted.dtype == torch.float64
        assert_close(got, wanted, 1e-12)


@on_each_device
@pytest.mark.parametrize(
    "kind", ["linear", "linear, last step", "two layers, regression", "two layers"]
)
def test_the_other_step_trains_as_on_the_cpu(
    kind: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LinearisedStep` is a `Step`, which calls the kernels for its parts, on padded rows."""
    task, specs = made(kind)
    step = Step(initial_pack(specs, task, torch.device(device)), specs[0], task)
    assert step.rows.shape[-1] == 48
    assert_as_good_as_torch(trained(step, specs), specs, task, monkeypatch)


@on_each_device
def test_one_batch_at_a_time_is_the_same(device: str) -> None:
    """`step(x, targets)` and `step.window` train alike, and networks train on alike when others leave the pack."""
    task = make_task("2AF")
    specs = runs(task, 4)
    whole, single = (fused(specs, task, device) for _ in range(2))
    losses, accuracies = whole.window(specs, 0, 2)
    for i in range(2):
        x, targets = (value.to(device) for value in batch(specs, task, i))
        loss, accuracy = single(x, targets)
        assert torch.equal(loss, losses[:, i])
        assert torch.equal(accuracy, accuracies[:, i])
    assert all(map(torch.equal, state(whole), state(single)))
    going = [0, 3]
    fewer = whole.select(going)
    few = [specs[r] for r in going]
    assert torch.equal(fewer.window(few, 2, 1)[0], whole.window(specs, 2, 1)[0][going])
    for some, all_ in zip(state(fewer), state(whole), strict=True):
        assert torch.equal(some, all_[going])


# The interpreter computes with NumPy, which warns of invalid operations on infinities.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@on_each_device
def test_divergence_is_recorded_and_hurts_no_neighbour(device: str) -> None:
    """The readout of one network overflows at once."""
    task = make_task("2AF")
    specs = runs(task)
    clean, step = (fused(specs, task, device) for _ in range(2))
    step.pack.readout[1] = 3e38
    wanted, _ = clean.window(specs, 0, 3)
    losses, _ = step.window(specs, 0, 3)
    assert not bool(losses[1].isfinite().any())
    assert torch.equal(losses[[0, 2]], wanted[[0, 2]])
    for got, right in zip(state(step), state(clean), strict=True):
        assert torch.equal(got[[0, 2]], right[[0, 2]])


FIGURE = """
import json, sys
import torch
from test_fused_step import figure_1
from triton.runtime.interpreter import GridExecutor

launched = set()
run = GridExecutor.__call__

def recording(self, *args, **kwargs):
    launched.add(self.fn.__name__)
    return run(self, *args, **kwargs)

GridExecutor.__call__ = recording
torch.set_num_threads(1)
records = figure_1()
json.dump({"records": records, "launched": sorted(launched)}, sys.stdout)
"""


def figure_1() -> list[dict[str, Any]]:
    """Return the records of one task of Figure 1 at N = 33: ranks 1 and 33, 3 iterations, all measures."""
    task = make_task("2AF")
    base = replace(SMALL, iterations=3)
    specs = [
        replace(base, connectivity=LowRank(rank=rank), seed=seed)
        for seed, rank in enumerate((1, 33))
    ]
    return train_pack(specs, task, device=torch.device("cpu"))


def test_figure_1_through_every_kernel() -> None:
    """Torch and the interpreter give the same records, up to the rounding of fp32 over three iterations."""
    environment = {
        **os.environ,
        "HPR_KERNELS_BACKEND": "interpret",
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", FIGURE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {
        "place_trials_kernel",
        "forward_kernel",
        "readout_loss_kernel",
        "sweep_kernel",
        "momentum_step_kernel",
        "gram_kernel",
    } <= set(result["launched"])
    for got, wanted in zip(result["records"], figure_1(), strict=True):
        assert got["key"] == wanted["key"]
        assert got["curves"]["loss"] == pytest.approx(wanted["curves"]["loss"], rel=1e-6)
        assert got["curves"]["accuracy"] == wanted["curves"]["accuracy"]
        assert got["measures"] == pytest.approx(wanted["measures"], rel=1e-5)
        assert (got["status"], got["flags"]) == (wanted["status"], wanted["flags"])


def test_feed_holds_what_the_task_draws() -> None:
    from hpr.training.feed import Feed

    task = make_task("2AF")
    specs = runs(task, 4, iterations=2 * WINDOW + 30)
    feed = Feed(specs, task, torch.device("cpu"))
    assert feed.chunk == WINDOW
    for start, size, prefetched in (
        (0, WINDOW, True),
        (WINDOW, WINDOW, True),
        (0, 7, False),
        (2 * WINDOW, 30, True),
    ):
        feed.load(start, size)
        for s, seed in enumerate(feed.seeds):
            drawn = task.draw(seed, start, size, specs[0].batch)
            assert np.array_equal(feed.x[s, :size], drawn.inputs)
            assert np.array_equal(feed.targets[s, :size], drawn.targets)
        if prefetched:
            feed.prefetch(start + size)


def test_feed_keeps_to_its_memory() -> None:
    """The shape is sMNIST's: 10 seeds of 200 images per step exceed the limit within ten steps."""
    from hpr.training.feed import Feed

    specs = [replace(SMALL, batch=200, seed=seed) for seed in range(10)]
    for change in ({"loss": "cross_entropy"}, {"loss": "mse", "N_out": 40}):
        rows = SimpleNamespace(T=28, N_in=28, **change)
        feed = Feed(specs, rows, torch.device("cpu"))  # type: ignore[arg-type]
        assert WINDOW % feed.chunk == 0
        assert feed.chunk > 1
        assert feed.x.nbytes + feed.targets.nbytes <= TRIAL_BYTES


def test_packs_fill_the_card_within_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, task_of = torch.device("cuda"), task_maker()
    assert pack_size(SMALL, task_of, torch.device("cpu")) == PACK
    paper = replace(SMALL, N=300, batch=32, trials=320, kernel_trials=32)
    sizes = []
    for memory in (80 << 30, 1 << 30, 1):
        card = SimpleNamespace(multi_processor_count=132, total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: card)
        sizes.append(pack_size(paper, task_of, cuda))
    # Each network has two tiles of 16 trials, and each multiprocessor gets four programs.
    assert sizes[0] == 264
    assert 1 < sizes[1] < sizes[0]
    assert sizes[2] == 1


def test_a_pack_has_no_program_beyond_the_last_full_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sMNIST's batches of 200, 13 tiles each, 528 programs hold 40; the 41st network would make 533."""
    card = SimpleNamespace(multi_processor_count=132, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    digits = make_task("sDigits")
    pictures = replace(SMALL, task="sDigits", task_version=digits.version, N=300, batch=200)
    assert pack_size(pictures, task_maker(), torch.device("cuda")) == 40
    # A batch of more tiles than a card has programs still trains alone.
    huge = replace(pictures, batch=100_000)
    assert pack_size(huge, task_maker(), torch.device("cuda")) == 1


@gpu
@each_kind
def test_a_graph_replays_what_was_run(kind: str) -> None:
    """Replayed chunks equal the same iterations launched one by one, bit for bit, and are the same each time."""
    task, specs = made(kind)
    specs = [replace(spec, iterations=3 * WINDOW) for spec in specs]
    replayed, again, eager = (fused(specs, task, "cuda") for _ in range(3))
    eager._advance = eager._iterations
    losses = [
        torch.cat([step.window(specs, k * WINDOW, WINDOW)[0] for k in range(3)], dim=1)
        for step in (replayed, again, eager)
    ]
    assert replayed.graph is not None
    for step, curve in ((again, losses[1]), (eager, losses[2])):
        assert torch.equal(losses[0], curve)
        assert all(map(torch.equal, state(replayed), state(step)))


@gpu
def test_a_record_is_the_same_alone_and_in_a_pack() -> None:
    task = make_task("2AF")
    specs = runs(task, 5, iterations=WINDOW + 30, batch=32, N=300)
    device = torch.device("cuda")
    together = train_pack(specs, task, device=device)
    for spec, record in zip(specs, together, strict=True):
        (alone,) = train_pack([spec], task, device=device)
        for part in ("curves", "measures", "status", "iterations"):
            assert alone[part] == record[part]
