"""A sweep varies cells and optimisers like all other names, in Python and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hpr
from hpr.run import main
from hpr.sweeps.outcome import text_table

SMALLEST: dict[str, Any] = {"N": 8, "batch": 2, "trials": 4, "kernel_trials": 2, "iterations": 1}


def test_a_sweep_over_cells_and_optimisers(tmp_path: Path) -> None:
    sweep = hpr.sweep(
        task="2AF", cell=["leaky", "gru"], optimizer=["sgd", "adam"], N=12, batch=4, trials=8,
        kernel_trials=4, iterations=6, trained=[["readout"], ["recurrent", "input", "readout"]], out=tmp_path,
    )  # fmt: skip
    rows = sweep.rows()
    assert len(rows) == 8
    assert {(row["cell"], row["optimizer"]) for row in rows} == {
        (cell, by) for cell in ("leaky", "gru") for by in ("sgd", "adam")
    }
    assert {row["status"] for row in rows} == {"finished"}
    reservoirs = [run["weight_change_norm"] == 0 for run in rows]
    assert sum(reservoirs) == 4
    table = text_table(sweep.summary())
    assert sum("recurrent+input+readout" in line for line in table) == 4


def test_pictures_of_two_gains_have_two_names(tmp_path: Path) -> None:
    """A name's own point is no ending; only those of the three files are."""
    sweep = hpr.sweep("2AF", gain=[0.5, 0.8], **SMALLEST, out=tmp_path)
    for name in ("g_0.5", "g_0.8", "g.png"):
        sweep.plot("final_loss", path=tmp_path / "plots" / name)
    found = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert found == [f"g{end}.{of}" for end in ("", "_0.5", "_0.8") for of in ("pdf", "png", "svg")]
    with pytest.raises(TypeError, match=r"^path: expected a path, got 3$"):
        sweep.plot("final_loss", path=3)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    sweep = hpr.sweep("2AF", **SMALLEST, keep_weights=True, out="~/out")
    sweep.plot("final_loss", x="N", path="~/loss.png")
    (key,) = sweep.by_key
    assert hpr.load(f"~/out/runs/{key}.json").spec.key == key
    assert len(hpr.results("~/out")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"out", "loss.png"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "task: expected a task, such as '2AF', got none"),
        ({"tsk": "2AF"}, "tsk: expected the name of a field .*; did you mean 'task'"),
        ({"task": "2AF", "out": 3}, "out: expected a path, got 3"),
        ({"task": "2AF", "out": None}, "out: expected a path, got None"),
        ({"task": "2AF", "out": ""}, "out: expected a path, got ''"),
        ({"task": "2AF", "mnist_dir": 3}, "mnist_dir: expected a path, got 3"),
        ({"task": "2AF", "trained": "readout"}, "trained: expected a list of items, each one of"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(
    given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=f"^{message}") as caught:
        hpr.sweep(**given)
    assert "\n" not in str(caught.value)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("task", "told"), [("PerceptualDecisionMakingDelayResponse-v0", 1), ("GoNogo-v0", 0)]
)
def test_trials_of_several_lengths_are_told(task: str, told: int, tmp_path: Path) -> None:
    pytest.importorskip("neurogym")
    said: list[str] = []
    hpr.sweep(
        task=task, N=8, batch=2, trials=4, kernel_trials=2, iterations=1, out=tmp_path, say=said.append
    )  # fmt: skip
    assert sum("trials differ in length" in line for line in said) == told


def test_a_folder_of_failures_is_named_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record of a later version is refused before the run begins, so no reason is written down."""
    sweep = hpr.sweep("2AF", **SMALLEST, out=tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    later = path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 99')
    path.write_text(later, encoding="utf-8")
    assert '"schema": 99' in later
    assert main([str(sweep.sweep_file), "--out", str(tmp_path), "--workers", "1"]) == 1
    out, err = capsys.readouterr()
    assert "NOT DONE" in out
    assert "update hpr" in err
    assert "reasons and tracebacks" not in out
    assert path.read_text(encoding="utf-8") == later


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = (
        "--task 2AF --cell gru --bias true --noise 0.1 --trained recurrent+readout --optimizer adam"
    )
    out = ["--out", str(tmp_path), "--dry-run"]
    assert main([*words.split(), *out]) == 0
    assert "1 run in 1 setting\n" in capsys.readouterr().out
    for wrong, told in (
        ("--optimiser adam", "did you mean '--optimizer'?"),
        ("--cell lstm", "cell: expected one of ('leaky', 'gru'), got 'lstm'"),
        ("--model two_layer --noise 1", "noise: expected 0.0 with two layers, got 1.0"),
    ):
        with pytest.raises(SystemExit):
            main(["--task", "2AF", *wrong.split(), *out])
        error = capsys.readouterr().err
        assert told in error
        assert len(error.strip().splitlines()) == 1
