"""Figures are drawn by worker processes: the files are those of one process, and nothing takes others along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_rank_sweep import QUICK, records

from hpr.experiment.run_outcome import Failure
from hpr.figures import Figure, Settings, discover
from hpr.figures.definitions.rank_sweep import RankSweep
from hpr.figures.drawing import Drawing
from hpr.figures.drawing_workers import write_figures

FEW = replace(QUICK, seeds=2)


class Raises(RankSweep):
    """A figure that can't be drawn."""

    def plot(self, *_: Any) -> Any:
        """Fail."""
        raise ValueError("no\npicture")


class Dies(RankSweep):
    """A figure that kills its process."""

    def plot(self, *_: Any) -> Any:
        """End the process, unless it is the one of the test."""
        assert os.getppid() == int(os.environ["DRAWS"])
        os.kill(os.getpid(), signal.SIGKILL)


def sweep(kind: type[RankSweep], name: str) -> Figure:
    """Figure 18 as another kind of figure."""
    return kind(**{**vars(discover()["18"]), "name": name})


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpr.figures.drawing_workers.cores", lambda: 2)
    monkeypatch.setenv("DRAWS", str(os.getpid()))


def test_files_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    figures = [discover()[name] for name in ("16", "18")]
    made = {key: each for figure in figures for key, each in records(figure, FEW).items()}
    drawn = []
    for workers in (1, 2):
        drawing = Drawing(FEW, made, {}, tmp_path / str(workers))
        drawn.append([*write_figures(figures, drawing, workers)])
    assert drawn[0] == drawn[1]
    assert [each["figure"] for each in drawn[0] if isinstance(each, dict)] == ["16", "18"]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / workers).iterdir()}
        for workers in "12"
    )
    assert len(one) == 10
    assert one == two


def test_a_figure_that_fails_or_kills_its_process_takes_no_other_along(tmp_path: Path) -> None:
    class Local(RankSweep):
        """A figure that no other process knows."""

    figures = [
        sweep(kind, name)
        for kind, name in ((Dies, "a"), (Raises, "b"), (RankSweep, "c"), (Local, "d"), (Dies, "e"))
    ]
    drawn = [*write_figures(figures, Drawing(FEW, {}, {}, tmp_path), 2)]
    killed = "the worker died (signal 9); --workers 1 draws without one"
    told = [
        (each.what, each.reason) if isinstance(each, Failure) else each["figure"] for each in drawn
    ]
    assert told == [
        ("figure a", killed),
        ("figure b", "ValueError: no picture"),
        "c",
        "d",
        ("figure e", killed),
    ]
    assert (tmp_path / "figure_c.svg").read_bytes() == (tmp_path / "figure_d.svg").read_bytes()


class Told(RankSweep):
    """A figure that tells which records it is given."""

    def judge(self, settings: Settings, given: Any) -> Any:
        """Fail with the keys."""
        raise ValueError(sorted(given))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_figure_is_given_the_records_of_its_runs(tmp_path: Path, workers: int) -> None:
    figures = [sweep(Told, "a"), sweep(Told, "b")]
    own = records(figures[0], FEW)
    other = records(discover()["10"], FEW)
    assert not own.keys() & other.keys()
    drawn = [*write_figures(figures, Drawing(FEW, own | other, {}, tmp_path), workers)]
    assert [each.reason for each in drawn if isinstance(each, Failure)] == [
        f"ValueError: {sorted(own)}"
    ] * 2


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_an_interrupt_ends_all_with_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--figure", "16", "theory", "--profile", "quick", "--device", "cpu", "--workers", "2"]
    program = (
        "import sys, hpr.figures.drawing_workers, hpr.reproduce; hpr.figures.drawing_workers.cores = lambda: 2\n"
        "sys.exit(hpr.reproduce.main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    workers: list[int] = []
    while len(workers) < 2:
        assert time.monotonic() < end
        assert process.poll() is None
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
        workers = [
            int(child)
            for child in listed
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == (
        f"hpr.reproduce: interrupted: finished runs are kept in {out / 'runs'}; "
        "the same command goes on from there\n"
    )
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert not [*out.glob(".*.tmp")]
