"""A Dask cluster of real processes: workers and the scheduler are killed, and a worker runs another version."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import runner_support as support
from test_several_at_once import check_records, finish, kept, start, trainings

import hpr
from hpr.connectivity import Dense
from hpr.experiment.cluster import threads_of
from hpr.experiment.plan import tasks
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.system.devices import Device
from hpr.training import calibration
from hpr.training.outlook import ahead

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs Dask distributed"
)
COUNT = 24


class Dask:
    """A scheduler and workers, each a process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.log = folder / "out.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1")
        until(self.file.exists)
        self.address = json.loads(self.file.read_text())["address"]

    def worker(self, code: Path | None = None) -> subprocess.Popen[bytes]:
        return self._start("worker", "--nthreads", "1", "--no-nanny", code=code)

    def _start(self, kind: str, *options: str, code: Path | None = None) -> subprocess.Popen[bytes]:
        searched = [str(Path(support.__file__).parent), os.environ.get("PYTHONPATH", "")]
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--no-dashboard",
             "--scheduler-file", str(self.file), *options],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([*([str(code)] if code else []), *searched]),
                "RUNNER_LOG": str(self.log),
                "RUNNER_PAUSE": "0.2",
            },
            cwd=self.file.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(process)
        return process


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    cluster = Dask(tmp_path)
    try:
        yield cluster
    finally:
        for process in cluster.processes:
            process.kill()
            process.wait()


def until(true: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun_by(log: Path, pid: int) -> list[str]:
    return [key for key, worker in trainings(log.with_suffix("")) if worker == pid]


def test_a_killed_worker_is_survived_and_another_version_is_refused(
    tmp_path: Path, dask: Dask
) -> None:
    other = tmp_path / "other"
    shutil.copytree(
        Path(hpr.__file__).parent, other / "hpr", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (other / "hpr" / "__init__.py").read_text()
    (other / "hpr" / "__init__.py").write_text(text.replace(hpr.__version__, "99.9"))
    out = tmp_path / "out"
    victim, survivor, stranger = dask.worker(), dask.worker(), dask.worker(other)
    client = start(out, COUNT, f"cluster={dask.address}", "say=1")
    until(lambda: dask.log.exists() and len(begun_by(dask.log, victim.pid)) >= 2)
    until(lambda: kept(out))
    victim.kill()
    victim.wait()
    stored, begun = kept(out), len(trainings(out))
    said, errors = client.communicate(timeout=100)
    assert (client.returncode, errors) == (0, "")
    assert said.endswith(f"complete {COUNT} 0\n")
    [refused] = [line for line in said.splitlines() if "is refused" in line]
    assert "it runs hpr 99.9, commit " in refused
    assert f"and this process runs hpr {hpr.__version__}, commit " in refused
    check_records(out, COUNT)
    assert begun_by(dask.log, stranger.pid) == []
    # Nothing is trained twice but what the killed worker had not sent back.
    for key in {key for key, _ in trainings(out)}:
        pids = [pid for trained, pid in trainings(out) if trained == key]
        assert pids in ([victim.pid], [survivor.pid], [victim.pid, survivor.pid])
    assert not stored & {key for key, _ in trainings(out)[begun:]}
    assert begun_by(dask.log, survivor.pid)


@pytest.mark.nightly
def test_a_scheduler_that_goes_is_one_line_and_the_same_command_goes_on(
    tmp_path: Path, dask: Dask
) -> None:
    dask.worker()
    out = tmp_path / "out"
    client = start(out, COUNT, f"cluster={dask.address}")
    until(lambda: kept(out))
    dask.scheduler.kill()
    said, errors = client.communicate(timeout=100)
    assert (client.returncode, said) == (1, "")
    assert errors == (
        f"--cluster {dask.address}: the scheduler has gone: finished runs are kept in "
        f"{out / 'runs'}; the same command goes on from there\n"
    )
    stored, begun = kept(out), len(trainings(out))
    assert 0 < len(stored) < COUNT
    assert {path.name for path in out.iterdir()} == {"runs"}
    gone = start(out, COUNT, f"cluster={dask.address}")
    said, errors = gone.communicate(timeout=100)
    assert (gone.returncode, said) == (1, "")
    assert errors.startswith(f"--cluster {dask.address}: no scheduler answers (")
    assert len(errors.splitlines()) == 1
    finish([start(out, COUNT, pause=0)], COUNT)
    check_records(out, COUNT)
    assert not stored & {key for key, _ in trainings(out)[begun:]}


def test_a_dry_run_is_timed_by_the_clusters_workers(
    tmp_path: Path, dask: Dask, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers on a busy machine take long to import torch.
    monkeypatch.setattr(calibration, "LONGEST", 300.0)
    dask.worker()
    dask.worker()
    spec = RunSpec("student-teacher(d=5,kappa=3)", Dense(), 0, task_version="1", N=20)
    specs = [spec.at_seed(seed) for seed in range(8)]
    until(lambda: threads_of(dask.address) == 2)
    found = ahead(specs, Store(tmp_path / "out"), tasks(), Device("cpu"), cluster=dask.address)
    # Each thread is to get two packs.
    assert (found.workers, len(found.left.packs)) == (2, 4)
    assert (len(found.speed.timings), found.speed.processes) == (1, 2)
    assert f"2 threads of the cluster {dask.address}, " in found.lines()[-1]
    assert not (tmp_path / "out").exists()
