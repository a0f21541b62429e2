"""`--keep-weights`, from the shell to `hpr.load`: real runs in worker processes, resumed, and of a figure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hpr
from hpr.experiment.kept_weights import texts_of
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.reproduce import main as reproduce
from hpr.run import main

SMALL = ["--task", "2AF", "--N", "8", "--batch", "4", "--trials", "8", "--kernel-trials", "2"]
SMALL += ["--device", "cpu", "--seeds", "2", "--keep-weights"]


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "hpr.run", *SMALL, "--out", str(out), *options]


def loaded(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The parameters of every network of a folder, by key."""
    paths = sorted((out / "runs").glob("*.json"))
    assert all(path.with_suffix(".safetensors").is_file() for path in paths)
    assert len(list((out / "runs").iterdir())) == 2 * len(paths)
    return {path.stem: hpr.load(path).state_dict() for path in paths}


@pytest.mark.nightly
def test_workers_and_a_stop_give_the_weights_of_one_process(tmp_path: Path) -> None:
    """The first process is stopped on its way; its checkpoints lead to the weights of an undisturbed one."""
    long = ["--iterations", "500000"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(command(whole, *long, "--workers", "1"), check=True, capture_output=True)
    log = tmp_path / "log"
    options = [*long, "--workers", "2", "--checkpoint-period", "1", "--log-json", str(log)]
    with subprocess.Popen(command(parts, *options), stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 100
        while not (log.exists() and '"event": "checkpoint"' in log.read_text()):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert list((parts / "checkpoints").iterdir())
    subprocess.run(command(parts, *options), check=True, capture_output=True)
    found, wanted = loaded(parts), loaded(whole)
    assert found.keys() == wanted.keys()
    for key, weights in wanted.items():
        for name, tensor in weights.items():
            assert torch.equal(found[key][name], tensor)
    assert not list((parts / "checkpoints").iterdir())


class Trainer:
    """This stands in for `train_pack`, and keeps the key of a run as its readout's first weight."""

    def __init__(self) -> None:
        self.trained: list[RunSpec] = []

    def __call__(
        self, specs: Sequence[RunSpec], task: Any, *, device: Any, progress: Any
    ) -> list[Record]:
        self.trained += specs
        return [self.record(spec) for spec in specs]

    def record(self, spec: RunSpec) -> Record:
        names = ("weight_change_norm", "representation_alignment", "kernel_alignment", "final_loss")
        readout = np.zeros((3, spec.N), "f4")
        readout[0, 0] = spec.seed + 0.5
        arrays = {
            "recurrent": np.zeros((spec.N, spec.N), "f4"),
            "input": np.zeros((spec.N, 3), "f4"),
        }
        weights = {"weights": texts_of({**arrays, "readout": readout})} if spec.keep_weights else {}
        return {
            "schema": 1, "key": spec.key, "spec": spec.to_dict(), "status": "finished", "flags": [],
            "iterations": spec.iterations, "curves": {}, "provenance": {}, "timings": {},
            "measures": {name: 1 + spec.seed / 10 for name in (*names, "final_accuracy")}, **weights,
        }  # fmt: skip


@pytest.mark.nightly
def test_a_figure_keeps_the_weights_of_its_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--figure", "1", "--device", "cpu", "--seeds", "5", "--iterations", "9"]
    words += ["--out", str(tmp_path)]
    plain, keeping = Trainer(), Trainer()
    assert reproduce(words, train=plain) == 0
    first = json.loads((tmp_path / "figure_1.json").read_bytes())
    capsys.readouterr()
    assert reproduce([*words, "--keep-weights", "--dry-run"]) == 0
    assert f"0 runs already in {tmp_path / 'runs'}" in capsys.readouterr().out
    assert reproduce([*words, "--keep-weights"], train=keeping) == 0
    assert len(keeping.trained) == len(plain.trained) > 0
    assert all(spec.keep_weights for spec in keeping.trained)
    figure = json.loads((tmp_path / "figure_1.json").read_bytes())
    # The figure is the same, and names the runs that have weights.
    assert figure["claims"] == first["claims"]
    assert figure["settings"] == first["settings"]
    assert sorted(figure["runs"]) == sorted(spec.key for spec in keeping.trained)
    for spec in keeping.trained[:3]:
        network = hpr.load(tmp_path / "runs" / f"{spec.key}.json")
        assert float(network.readout[0, 0].detach()) == spec.seed + 0.5
    assert (tmp_path / "report.html").stat().st_size > 10_000
    again = Trainer()
    assert reproduce([*words, "--keep-weights"], train=again) == 0
    assert again.trained == []


def test_a_truth_value_alone_means_true(tmp_path: Path) -> None:
    trainer = Trainer()
    words = ["--task", "2AF", "--N", "8", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*words, "--keep-weights"], train=trainer) == 0
    assert main([*words, "--keep-weights", "true"], train=trainer) == 0
    assert main([*words, "--keep-weights", "false"], train=trainer) == 0
    assert [spec.keep_weights for spec in trainer.trained] == [True, False]
    values: dict[str, Any] = {"task": "2AF", "N": 8, "keep_weights": True, "train": trainer}
    found = hpr.sweep(**values, out=tmp_path, say=lambda line: None)
    assert len(trainer.trained) == 2
    assert float(hpr.load(found.records[0]).readout[0, 0].detach()) == 0.5
    assert [*Store(tmp_path).load(trainer.trained[0])["weights"]] != []  # type: ignore[index]
