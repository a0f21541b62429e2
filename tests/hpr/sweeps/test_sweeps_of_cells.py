"""A sweep varies cells and optimisers like all other names, in Python and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpr
from hpr.run import main


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
