"""These tests check what the command line runs, keeps, says and returns, with a trainer that does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hpr.experiment import plan as planning
from hpr.experiment.specification import RunSpec
from hpr.figures.definitions.rank_sweep import RankSweep
from hpr.figures.panel import MEASURES
from hpr.reproduce import main

pytestmark = pytest.mark.usefixtures("empty_cache")

ONE = ["--figure", "1", "--seeds", "2", "--iterations", "3", "--device", "cpu"]


class Trainer:
    """This stands in for `train_pack`; `broken` says which packs raise, and `diverging` which runs diverge."""

    def __init__(
        self,
        broken: Callable[[int, RunSpec], BaseException | None] = lambda calls, spec: None,
        diverging: Callable[[RunSpec], bool] = lambda spec: False,
    ) -> None:
        self.broken, self.diverging = broken, diverging
        self.trained: list[RunSpec] = []
        self.calls = 0

    def __call__(
        self,
        specs: Sequence[RunSpec],
        task: Any,
        *,
        device: torch.device,
        progress: Callable[[int], None],
    ) -> list[dict[str, Any]]:
        assert task.name == specs[0].task
        assert len({spec.shape for spec in specs}) == 1
        self.calls += 1
        error = self.broken(self.calls, specs[0])
        if error is not None:
            raise error
        for _ in range(specs[0].iterations):
            progress(1)
        self.trained += specs
        return [self.record(spec, device) for spec in specs]

    def record(self, spec: RunSpec, device: torch.device) -> dict[str, Any]:
        diverged = self.diverging(spec)
        measures = {
            name: 1.0 + spec.seed / 10
            for name in (
                "weight_change_norm",
                "representation_alignment",
                "kernel_alignment",
                "final_loss",
                "final_accuracy",
            )
        }
        return {
            "schema": 1,
            "key": spec.key,
            "spec": spec.to_dict(),
            "status": "diverged" if diverged else "finished",
            "iterations": spec.iterations,
            "curves": {"iteration": [], "loss": [], "accuracy": []},
            "measures": {} if diverged else measures,
            "flags": [],
            "provenance": {"versions": {}, "device": str(device), "git": None},
            "timings": {},
        }


def unreachable(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing was to be trained")


def refuse(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command line that must be refused, and return its one line of error."""
    with pytest.raises(SystemExit) as caught:
        main(argv, train=unreachable)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hpr.reproduce: error: ")
    return line


def test_all_runs_are_trained_kept_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Trainer()
    assert main([*ONE, "--out", str(tmp_path / "out")], train=train) == 0
    assert len(train.trained) == 30
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "runs", "figure_1.json", "figure_1.md", "figure_1.png", "figure_1.pdf", "figure_1.svg",
        "summary.json", "summary.md", "report.html",
    }  # fmt: skip
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 30
    said = capsys.readouterr()
    assert "profile quick (the default on cpu), variant paper, device cpu" in said.out
    assert "stand-in sDigits" in said.out
    assert "30 runs: 0 already in" in said.out
    # There is no progress bar without a terminal.
    assert said.err == ""


def test_real_training_ends_in_a_figure_whose_every_measure_is_there(tmp_path: Path) -> None:
    """Nothing is a stand-in: tasks, training, measures, store, claims and picture are real."""
    arguments = ["--figure", "1", "--seeds", "1", "--iterations", "2", "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "figure_1.json").read_text())
    assert content["failed"] == []
    assert len(content["runs"]) == len(list((tmp_path / "runs").glob("*.json"))) == 15
    found = means(content["measurements"])
    assert len(found) == 15 * len(MEASURES)
    assert all(group["n"] == 1 and group["mean"] is not None for group in found)
    before = (tmp_path / "figure_1.png").read_bytes()
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "figure_1.png").read_bytes() == before


def means(nested: Any) -> list[dict[str, Any]]:
    """Return every entry that has a mean, however deep it is."""
    if isinstance(nested, dict) and "mean" in nested:
        return [nested]
    children = nested.values() if isinstance(nested, dict) else nested
    return [found for child in children if isinstance(child, dict | list) for found in means(child)]


def test_what_is_there_is_not_trained_again_and_gives_the_same_files(tmp_path: Path) -> None:
    argv = [*ONE, "--out", str(tmp_path)]
    assert main(argv, train=Trainer()) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    assert main(argv, train=unreachable) == 0
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_corrupted_run_is_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    argv = [*ONE, "--out", str(tmp_path)]
    main(argv, train=Trainer())
    damaged = sorted((tmp_path / "runs").iterdir())[7]
    damaged.write_bytes(damaged.read_bytes()[:100])
    train = Trainer()
    assert main(argv, train=train) == 0
    assert [spec.key for spec in train.trained] == [damaged.stem]
    assert len(caplog.messages) == 1


def test_a_diverged_run_is_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*ONE, "--out", str(tmp_path)]

    def diverging(spec: RunSpec) -> bool:
        return spec.task == "sDigits" and spec.seed == 1 and "rank 5" in str(spec)

    train = Trainer(diverging=diverging)
    assert main(argv, train=train) == 0
    [diverged] = filter(diverging, train.trained)
    said = capsys.readouterr()
    assert said.err == ""
    assert ": 30 runs: 1 diverged, 29 finished, 0 failed\n" in said.out
    assert said.out.endswith(
        f"read {tmp_path / 'summary.md'}; it lists the runs that diverged or failed\n"
    )
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert (
        f"\n## Diverged runs\n\nResults like any other, without measures.\n\n- {diverged}: "
        in summary
    )
    assert "## Failures" not in summary
    assert str(diverged) in (tmp_path / "figure_1.md").read_text(encoding="utf-8")
    # The diverged run isn't run again, since it would diverge again, and it is still named.
    assert main(argv, train=unreachable) == 0
    assert "30 runs: 1 diverged, 29 finished, 0 failed" in capsys.readouterr().out
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == summary


def test_a_pack_that_raises_fails_by_name_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*ONE, "--out", str(tmp_path)]
    error = MemoryError("no room\nfor DMS")
    train = Trainer(broken=lambda calls, spec: error if spec.task == "DMS" else None)
    assert main(argv, train=train) == 1
    assert len(train.trained) == 22
    said = capsys.readouterr()
    assert "\nNOT DONE after " in said.out
    assert ": 30 runs: 22 finished, 8 failed\n" in said.out
    lines = said.err.splitlines()
    assert len(lines) == 8
    for line in lines:
        assert line.startswith("hpr.reproduce: failed: DMS N=300 rank ")
        assert line.endswith(": MemoryError: no room for DMS")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["failures"]) == 8
    assert "Traceback" in summary["failures"][0]["traceback"]
    # The next call tries the failed runs alone.
    train = Trainer()
    assert main(argv, train=train) == 0
    assert {spec.task for spec in train.trained} == {"DMS"}
    assert len(train.trained) == 8


def test_a_record_that_cannot_be_kept_loses_its_own_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Infinite(Trainer):
        def record(self, spec: RunSpec, device: torch.device) -> dict[str, Any]:
            record = super().record(spec, device)
            if spec.task == "DMS" and spec.seed == 1 and "rank 30 " in str(spec):
                record["measures"]["final_loss"] = float("inf")
            return record

    assert main([*ONE, "--out", str(tmp_path)], train=Infinite()) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hpr.reproduce: failed: DMS N=300 rank 30 seed=1 ")
    assert len(list((tmp_path / "runs").iterdir())) == 29


def test_a_record_that_cannot_be_read_is_one_line_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*ONE, "--out", str(tmp_path)]
    main(argv, train=Trainer())
    blocked, missing, *_ = sorted((tmp_path / "runs").iterdir())
    for path in (blocked, missing):
        path.unlink()
    blocked.mkdir()
    capsys.readouterr()
    train = Trainer()
    assert main(argv, train=train) == 1
    assert [spec.key for spec in train.trained] == [missing.stem]
    said = capsys.readouterr()
    assert "30 runs: 28 already in" in said.out
    assert ", 1 unreadable there, 1 to train in 1 pack," in said.out
    [line] = said.err.splitlines()
    assert line.startswith("hpr.reproduce: failed: ")
    assert f"{blocked} can't be read: Is a directory; move it away" in line
    assert blocked.is_dir()


def test_a_figure_that_raises_fails_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("no axes")

    monkeypatch.setattr(RankSweep, "plot", fail)
    assert main([*ONE, "--out", str(tmp_path)], train=Trainer()) == 1
    said = capsys.readouterr()
    assert said.err == "hpr.reproduce: failed: figure 1: ZeroDivisionError: no axes\n"
    assert "0 failed, 1 of the figures and the summary failed\n" in said.out
    assert (tmp_path / "summary.md").exists()


def test_an_interrupt_keeps_what_is_finished_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(planning, "PACK", 5)
    argv = [*ONE, "--out", str(tmp_path)]
    train = Trainer(broken=lambda calls, spec: KeyboardInterrupt() if calls == 4 else None)
    assert main(argv, train=train) == 130
    finished = len(train.trained)
    assert finished == 5 + 3 + 5
    assert capsys.readouterr().err == (
        f"hpr.reproduce: interrupted: finished runs are kept in {tmp_path / 'runs'}; the same "
        "command goes on from there\n"
    )
    assert len(list((tmp_path / "runs").iterdir())) == finished
    train = Trainer()
    assert main(argv, train=train) == 0
    assert len(train.trained) == 30 - finished


BAD_USAGE = {
    "nothing asked for": ([], "arguments --all --figure --list --report --version is required"),
    "two things": (["--all", "--list"], "not allowed with argument"),
    "figure": (["--figure", "1", "99"], "--figure: expected some of 1, 2, "),
    "variant": (["--all", "--variant", "mine"], "--variant: invalid choice: 'mine'"),
    "profile": (["--all", "--profile", "slow"], "--profile: invalid choice: 'slow'"),
    "task version": (["--all", "--task-version", "1"], "--task-version: invalid choice: '1'"),
    "device": (["--all", "--device", "tpu"], "--device: expected auto, cpu, cuda or cuda:N"),
    "no seeds": (
        ["--all", "--seeds", "0"],
        "--seeds: expected an integer from 1 to 1000, got '0'",
    ),
    "seeds in words": (["--all", "--seeds", "two"], "from 1 to 1000, got 'two'"),
    "more seeds than can be planned": (
        ["--all", "--seeds", "9999999", "--dry-run"],
        "--seeds: expected an integer from 1 to 1000, got '9999999'",
    ),
    "iterations": (["--all", "--iterations", "-5"], "--iterations: expected "),
    "json": (["--all", "--json"], "--json: expected together with --list"),
    "mnist": (["--all", "--mnist-dir", "/no/such/folder"], "--mnist-dir: "),
    "em": (
        ["--all", "--em-dir", "/no/such/folder"],
        "--em-dir: /no/such/folder: expected synapses",
    ),
}


@pytest.mark.parametrize(("argv", "message"), BAD_USAGE.values(), ids=BAD_USAGE.keys())
def test_bad_usage_is_one_line_and_exit_2(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*argv, "--out", str(tmp_path / "out")]
    assert message in refuse(argv, capsys)
    assert not (tmp_path / "out").exists()


def test_cuda_runs_the_paper_profile_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hpr.system.devices.may_have_card", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(multi_processor_count=132, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr("hpr.system.devices._card_rate", lambda device: 1e13)
    for profile, seeds in (([], 10), (["--profile", "quick"], 6)):
        main(["--list", "--json", *profile])
        listed = json.loads(capsys.readouterr().out)
        assert listed["settings"]["profile"] == ("quick" if profile else "paper")
        assert listed["figures"][0]["runs"] == 15 * seeds


def test_an_output_folder_that_cannot_be_written_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refuse([*ONE, "--out", str(tmp_path / "file" / "out")], capsys)
    assert f"the output folder {tmp_path / 'file' / 'out'} can't be written" in line


def test_a_broken_mnist_file_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{kind}-ubyte").write_bytes(b"not an IDX file")
    argv = [*ONE, "--mnist-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    assert str(tmp_path) in refuse(argv, capsys)


def test_a_broken_synapse_table_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cells.csv").write_text("pt_root_id,classification_system\n7,glia\n")
    (tmp_path / "synapses.csv").write_text("pre_pt_root_id,post_pt_root_id,size\n7,7,1\n")
    line = refuse(["--figure", "2", "--em-dir", str(tmp_path)], capsys)
    assert "--em-dir: " in line
    assert line.endswith("got 'glia'")


def test_a_dry_run_counts_a_damaged_run_as_left_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*ONE, "--out", str(tmp_path / "out")]
    main(argv, train=Trainer())
    damaged = sorted((tmp_path / "out" / "runs").iterdir())[0]
    damaged.write_text("{")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main([*argv, "--dry-run"], train=unreachable) == 0
    assert "29 runs already in" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_the_process_exits_with_2_and_no_traceback() -> None:
    command = [sys.executable, "-m", "hpr.reproduce", "--figure", "no such figure"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_has_gone_ends_the_process_without_a_word(buffered: bool) -> None:
    """`| head` closes the pipe like this: unbuffered output fails at the first line, other output at the last flush."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, *([] if buffered else ["-u"]), "-m", "hpr.reproduce", "--list"]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
