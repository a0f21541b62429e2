"""A run that goes on from its checkpoint has the record of one that nobody stopped, wherever it was stopped."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpr.connectivity import LowRank
from hpr.experiment.checkpoints import Checkpoints, maker
from hpr.experiment.record import identity as record_identity
from hpr.experiment.run_progress import PackState
from hpr.experiment.specification import RunSpec
from hpr.tasks import make_task
from hpr.training import watch
from hpr.training.cohort import Cohort
from hpr.training.loop import Stopped, train_pack
from hpr.training.trials import WINDOW
from hpr.training.watch import Watch
from hpr_kernels.native import library

CPU = torch.device("cpu")
SMALL = RunSpec(
    "2AF", LowRank(rank=2), seed=0, N=32, batch=8, iterations=250, trials=16, kernel_trials=4,
    checkpoints=5,
)  # fmt: skip
RUNS = [replace(SMALL, connectivity=LowRank(rank=1 + i), seed=i // 2) for i in range(3)]
BACKENDS = [
    pytest.param(
        "native",
        marks=pytest.mark.skipif(
            library.library() is None, reason="the installation has built no C kernels"
        ),
    ),
    "torch",
]


def identity(record: dict[str, Any]) -> str:
    return json.dumps(record_identity(record), sort_keys=True)


def train(runs: list[RunSpec], **options: Any) -> list[dict[str, Any]]:
    return train_pack(runs, make_task("2AF"), device=CPU, **options)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stop` is asked at every opportunity, and 7 iterations are trained at once."""
    monkeypatch.setattr(watch, "SECONDS", 0)
    monkeypatch.setattr(Watch, "count", lambda self, most, unit: min(most, 7))


def after(asked: int) -> Callable[[], bool]:
    """A `stop` that says so when it is asked for the `asked`th time."""
    times = iter(range(1, asked + 1))
    return lambda: next(times) == asked


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_pieces_of_a_window_do_not_matter(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    runs = [*RUNS, replace(SMALL, seed=5)]
    whole = [identity(record) for record in train(runs)]
    assert json.loads(whole[0])["provenance"]["engine"] == backend
    pieces, counts = random.Random(1), []

    def count(self: Watch, most: int, unit: int) -> int:
        counts.append(min(most, pieces.choice([1, 2, 3, 29, 64])))
        return counts[-1]

    monkeypatch.setattr(Watch, "count", count)
    assert [identity(record) for record in train(runs)] == whole
    assert len(set(counts)) > 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("asked", [1, 5, 9, 20, 49, 60])
@pytest.mark.usefixtures("impatient")
def test_a_stop_anywhere_changes_no_record(
    asked: int, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before training, in it, at a point of the trajectory, and between measures."""
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    whole = [identity(record) for record in train(RUNS)]
    kept: dict[str, dict[str, Any]] = {}

    def keep(spec: RunSpec, record: dict[str, Any]) -> None:
        kept[spec.key] = record

    folder = Checkpoints(tmp_path, period=math.inf)
    with pytest.raises(Stopped):
        train(RUNS, checkpoints=folder, keep=keep, stop=after(asked))
    files = [path.name for path in tmp_path.iterdir()]
    started = asked > 7
    left = [spec for spec in RUNS if spec.key not in kept]
    assert sorted(files) == sorted(folder.path(spec).name for spec in left if started)
    train(left, checkpoints=folder, keep=keep)
    assert [identity(kept[spec.key]) for spec in RUNS] == whole
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "fields",
    [{}, {"bias": True, "optimizer": "adam"}, {"cell": "gru", "bias": True}],
    ids=["plain", "adam", "gru"],
)
def test_the_default_dtype_of_the_process_does_not_matter(
    fields: dict[str, Any],
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("HPR_KERNELS_BACKEND", backend)
    runs = [replace(SMALL, iterations=60, **fields)]
    expected = train(runs)
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(Stopped):
            train(runs, checkpoints=Checkpoints(tmp_path), stop=after(6))
        assert list(tmp_path.iterdir())
        got = train(runs, checkpoints=Checkpoints(tmp_path))
    finally:
        torch.set_default_dtype(torch.float32)
    assert (identity(got[0]), caplog.messages) == (identity(expected[0]), [])


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lazy", [False, True])
def test_a_stop_between_measures(lazy: bool, tmp_path: Path) -> None:
    """What is not measured is only measured afterwards."""
    whole = [identity(record) for record in train(RUNS, lazy_distance=lazy)]
    kept: list[dict[str, Any]] = []
    how: dict[str, Any] = {
        "checkpoints": Checkpoints(tmp_path),
        "keep": lambda spec, record: kept.append(record),
        "lazy_distance": lazy,
    }
    with pytest.raises(Stopped):
        train(RUNS, stop=lambda: bool(kept), **how)
    assert len(kept) == 1
    passed: list[int] = []
    train(RUNS[1:], progress=passed.append, **how)
    assert passed == [SMALL.iterations]
    assert [identity(record) for record in kept] == whole


@pytest.mark.usefixtures("impatient")
def test_runs_of_one_pack_may_stand_at_different_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind train until they reach the next, and go on together with them."""
    whole = [identity(record) for record in train(RUNS)]
    folder = Checkpoints(tmp_path)
    steps = []
    for spec, asked in zip(RUNS, (12, 30, 8), strict=True):
        with monkeypatch.context() as patched:
            patched.setattr(Watch, "count", lambda self, most, unit: min(most, 5))
            with pytest.raises(Stopped):
                train([spec], checkpoints=folder, stop=after(asked))
        found = folder.load(spec, *expected_of(spec))
        assert found is not None
        steps.append(found[1]["step"])
    passed: list[int] = []
    together: dict[int, int] = {}
    advance = Cohort.advance

    def counted(self: Cohort, ends: Any) -> Any:
        together.setdefault(len(self.active), self.active[0].step)
        return advance(self, ends)

    monkeypatch.setattr(Cohort, "advance", counted)
    records = train(RUNS, checkpoints=folder, progress=passed.append)
    assert [identity(record) for record in records] == whole
    assert together == dict(enumerate(sorted(steps), start=1))
    assert passed[0] > 7
    assert min(passed) > 0
    assert sum(passed) == SMALL.iterations


def test_checkpoints_are_written_every_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A period of zero writes after every piece, unless writing takes more than its share of the time."""
    monkeypatch.setattr(Watch, "count", lambda self, most, unit: min(most, 25))
    written: list[int] = []
    save = Checkpoints.save

    def counted(self: Checkpoints, spec: RunSpec, tensors: Any, state: Any, *more: Any) -> None:
        written.append(state["step"])
        save(self, spec, tensors, state, *more)

    monkeypatch.setattr(Checkpoints, "save", counted)
    plain = replace(SMALL, checkpoints=0, iterations=150)
    for share, period, expected in (
        (math.inf, 0.0, [25, 50, 75, 100, 125, 150]),
        (math.inf, 1e6, []),
        (1e-9, 0.0, [25]),
    ):
        monkeypatch.setattr(watch, "SHARE", share)
        written.clear()
        told: list[PackState] = []
        train([plain], checkpoints=Checkpoints(tmp_path, period=period), state=told.append)
        assert written == expected
        assert sum(state.checkpoints for state in told) == len(expected)


@pytest.mark.usefixtures("impatient")
def test_timings_add_up(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    with pytest.raises(Stopped):
        train(RUNS[:1], checkpoints=folder, stop=after(30))
    content = folder.load(RUNS[0], *expected_of(RUNS[0]))
    assert content is not None
    seconds, started = content[1]["seconds"], content[1]["started"]
    cpu_seconds = content[1]["cpu_seconds"]
    assert seconds > 0
    assert cpu_seconds > 0
    state = {**content[1], "seconds": seconds + 1000, "cpu_seconds": cpu_seconds + 500}
    folder.save(RUNS[0], content[0], state, expected_of(RUNS[0])[1])
    (record,) = train(RUNS[:1], checkpoints=folder)
    assert record["timings"]["training_s"] > 1000 + seconds
    assert 500 + cpu_seconds < record["timings"]["training_cpu_s"] < 1000
    assert record["timings"]["started"] == started


def expected_of(spec: RunSpec) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """The shapes of a run's tensors, and what makes checkpoints here."""
    (record,) = train([replace(spec, iterations=1, checkpoints=0)])
    N, P, N_out = spec.N, 48, 3
    one = {
        "weights": (1, N, P), "readout": (1, N_out, N), "velocity": (1, N, P),
        "readout_velocity": (1, N_out, N),
    }  # fmt: skip
    both = one | {f"linearised_{name}": shape for name, shape in one.items()}
    shapes = {**both, "losses": (WINDOW,), "accuracies": (WINDOW,)}
    return shapes, maker(record["provenance"])


@pytest.mark.usefixtures("impatient")
def test_a_disk_that_takes_no_checkpoint_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "SHARE", math.inf)
    (tmp_path / "file").write_text("")
    states: list[PackState] = []
    folder = Checkpoints(tmp_path / "file" / "sub", period=0)
    with caplog.at_level(logging.WARNING):
        records = train(RUNS, checkpoints=folder, state=states.append)
    assert {state.checkpoints for state in states} == {0}
    assert [identity(r) for r in records] == [identity(r) for r in train(RUNS)]
    (line,) = caplog.messages
    assert line.endswith("can't be written: Not a directory; training goes on without")
    with pytest.raises(Stopped):
        train(RUNS, checkpoints=Checkpoints(tmp_path / "file" / "sub"), stop=after(20))


def test_left_files_of_a_killed_writer_go_with_the_checkpoint(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path)
    left = [tmp_path / f".{folder.path(spec).name}.0f.tmp" for spec in RUNS[:2]]
    for path in left:
        path.write_bytes(b"part")
    train(RUNS[:1], checkpoints=folder)
    assert list(tmp_path.iterdir()) == left[1:]


@pytest.mark.parametrize("period", [-1.0, math.nan, "30"])
def test_a_period_is_seconds(period: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="period: expected seconds, at least 0, got"):
        Checkpoints(tmp_path, period)


def test_pieces_are_as_long_as_the_time_between_two_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    asked: list[float] = []
    of_run = Watch(lambda: asked.append(now[0]) is not None, period=30)
    assert of_run.count(100, 1) == 1
    of_run.trained(1, watch.SECONDS / 40)
    assert of_run.count(100, 1) == 40
    assert of_run.count(30, 1) == 30
    # A CUDA graph of 25 iterations is replayed as a whole, even if it takes too long.
    assert of_run.count(100, 25) == 25
    of_run.trained(1, watch.SECONDS * 40)
    assert of_run.count(100, 1) == 1
    assert of_run.count(100, 25) == 25
    assert of_run.count(20, 25) == 20
    for tenth in range(40):
        now[0] = tenth / 10
        of_run.stopping()
    assert len(asked) == pytest.approx(4 / watch.SECONDS, abs=1)
    now[0] = 29.9
    assert not of_run.checkpoint_due()
    now[0] = 30
    assert of_run.checkpoint_due()
    of_run.checkpointed(0.5)
    now[0] = 79
    assert not of_run.checkpoint_due()
    now[0] = 81
    assert of_run.checkpoint_due()
