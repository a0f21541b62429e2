"""`python -m hpr.run` and `hpr.sweep`: what they train, keep, print and draw, with a trainer that does nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpr
from hpr.connectivity import Dense, LowRank, from_matrix
from hpr.connectivity.connectome import open_connectome
from hpr.experiment import RunSpec, Store
from hpr.run import build_parser, main
from hpr.sweeps import SweepResult

matplotlib = pytest.importorskip("matplotlib")
MEASURES = ("weight_change_norm", "representation_alignment", "kernel_alignment", "final_accuracy")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    open_connectome.cache_clear()


class Trainer:
    """This stands in for `train_pack`: a run's measures are its gain plus a tenth of its seed."""

    def __init__(
        self, failing: Callable[[RunSpec], bool] = lambda spec: False, flags: Sequence[str] = ()
    ) -> None:
        self.failing, self.flags = failing, [*flags]
        self.trained: list[RunSpec] = []

    def __call__(
        self, specs: Sequence[RunSpec], task: Any, *, device: Any, progress: Any, **more: Any
    ) -> list[dict[str, Any]]:
        assert task.name == specs[0].task
        if any(map(self.failing, specs)):
            raise RuntimeError("out of memory")
        self.trained += specs
        return [self.record(spec) for spec in specs]

    def record(self, spec: RunSpec) -> dict[str, Any]:
        diverged = spec.learning_rate > 1
        value = spec.connectivity.g + spec.seed / 10
        return {
            "schema": 1, "key": spec.key, "spec": spec.to_dict(), "iterations": 1, "provenance": {},
            "flags": ["loss not finite at iteration 0"] if diverged else self.flags,
            "status": "diverged" if diverged else "finished", "curves": {},
            "measures": {} if diverged else dict.fromkeys(MEASURES, value), "timings": {},
        }  # fmt: skip


def run(*words: str, train: Any = None) -> int:
    return main(
        [*words, *([] if "--device" in words else ["--device", "cpu"])], train=train or Trainer()
    )


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    told = line.removeprefix("hpr.run: error: ")
    assert not re.match(r"(\S+: )\1", told)
    return told


RANKS = ["--task", "2AF", "--rank", "1", "20", "--gain", "0.8", "1.5", "--N", "20", "--seeds", "3"]


def test_a_command_line_is_a_sweep(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trainer = Trainer()
    assert run(*RANKS, "--set", "learning_rate=0.01", train=trainer) == 0
    assert set(trainer.trained) == {
        RunSpec("2AF", LowRank(rank=rank, gain=gain), seed, N=20, learning_rate=0.01)
        for rank in (1, 20) for gain in (0.8, 1.5) for seed in range(3)
    }  # fmt: skip
    out = capsys.readouterr().out
    table = [line.split() for line in out.splitlines() if line.startswith(("gain", "0.8", "1.5"))]
    assert table[0][:3] == ["gain", "rank", "n"]
    assert table[1:] == [
        [gain, rank, "3", *[f"{float(gain) + 0.1:.3f}", "±", "0.100"] * 4]
        for gain in ("0.8", "1.5") for rank in ("1", "20")
    ]  # fmt: skip
    assert "12 finished" in out
    assert (
        "records: results/runs; the same runs again: python -m hpr.run results/sweep.toml --out results"
        in out
    )
    assert len(list((tmp_path / "results" / "runs").glob("*.json"))) == 12


def test_the_same_runs_are_not_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    run(*RANKS)
    for words in (RANKS, ["results/sweep.toml"]):
        trainer = Trainer()
        assert run(*words, train=trainer) == 0
        assert trainer.trained == []
    more = Trainer()
    run("results/sweep.toml", "--seeds", "4", train=more)
    assert {spec.seed for spec in more.trained} == {3}
    assert "12 already in" in capsys.readouterr().out


def test_a_file_holds_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'task = "2AF"\nrank = [1, 20]\ngain = [0.8, 1.5]\nN = 20\nseeds = 3\nlearning_rate = 0.01\n',
        encoding="utf-8",
    )
    by_file, by_options = Trainer(), Trainer()
    run("mine.toml", "--out", "a", train=by_file)
    run(*RANKS, "--learning-rate", "0.01", "--out", "b", train=by_options)
    assert set(by_file.trained) == set(by_options.trained)
    changed = Trainer()
    run("mine.toml", "--rank", "3", "--set", "gain=1", "seed=7,8", "--out", "c", train=changed)
    assert {(spec.connectivity, spec.seed) for spec in changed.trained} == {
        (LowRank(rank=3, gain=1.0), 7), (LowRank(rank=3, gain=1.0), 8),
    }  # fmt: skip


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save("own.npy", np.eye(20) + 0.1)
    run(*RANKS)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert run(*RANKS, "--iterations", "5", "10000", "--dry-run") == 0
    assert "12 runs already in results/runs, 12 to train in 1 pack:" in capsys.readouterr().out
    words = ["--task", "DMS", "--connectivity", "file:own.npy", "dense", "--dry-run", "--json"]
    assert run(*words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["runs"], told["stored"], told["to_train"], told["settings"]) == (2, 0, 2, 2)
    assert run("--task", "sMNIST", "--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_json_is_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*RANKS, "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert "12 to train" in err
    assert told["sweep"] == "results/sweep.toml"
    assert len(told["runs"]) == 12
    first = told["settings"][0]
    assert first["setting"] == {"gain": 0.8, "rank": 1}
    assert first["measures"]["kernel_alignment"] == {
        "n": 3, "mean": pytest.approx(0.9), "sd": pytest.approx(0.1),
    }  # fmt: skip


def test_failures_and_divergences_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Flagged runs are named, those that count in the table first, and no more than five."""
    trainer = Trainer(lambda spec: spec.N == 10, ["kernel_alignment is not a number"])
    words = ["--task", "2AF", "--N", "10", "20", "--set", "learning_rate=2,0.1", "--seeds", "4"]
    assert run(*words, train=trainer) == 1
    out, err = capsys.readouterr()
    assert "NOT DONE" in out
    assert "4 diverged, 8 failed, 4 finished" in out
    assert err.count("RuntimeError: out of memory") == 8
    rows = [line.split() for line in out.splitlines() if line.startswith(("10 ", "20 "))]
    assert [row[-2:] for row in rows] == [["0", "4"], ["0", "4"], ["4", "0"], ["0", "0"]]
    *first, diverged, last = re.findall("(?m)^flagged: (.*)", out)
    assert [line.partition("): ")[2] for line in first] == trainer.flags * 4
    assert diverged.endswith("loss not finite at iteration 0")
    assert last == "3 more, in the field flags of their records"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected SWEEP.toml or --task, got neither"),
        (["--rank", "3"], "task: expected a task, such as '2AF', got none"),
        (["--task", "trials:x-0123456789ab"], "task: expected trials that are kept in"),
        (["--task", "2AF(x=1)"], "task: expected 2AF without arguments, got '2AF(x=1)'"),
        (["--task", "hpr.run:RunSpec"], "task: hpr.run:RunSpec cannot be a task: it is a RunSpec, neither"),
        (["--task", "2AF", "--lerning-rate", "1"], "got '--lerning-rate'; did you mean '--learning-rate'?"),
        (["--task", "2AF", "--gian=1"], "got '--gian=1'; did you mean '--gain'?"),
        (["--task", "2AF", "--set", "momentun=0.5"], "got 'momentun'; did you mean 'momentum'?"),
        (["--task", "2AF", "--set", "momentum"], "expected NAME=VALUE, got 'momentum'"),
        (["--task", "2AF", "--rank", "one"], "rank: expected an integer, got 'one'"),
        (["--task", "2AF", "--rank", "1,,2"], "expected values between commas, got '1,,2'"),
        (["--task", "2AF", "--gain", "1", "--set", "gain=2"], "gain: expected its values once, got them twice"),
        (["--task", "2AF", "--connectivity", "file:none.npy"], "none.npy: No such file"),
        (["--task", "2AF", "--set", "teacher=x"], "teacher: expected it in SWEEP.toml"),
        (["none.toml"], "none.toml: No such file"),
        (["--task", "2AF", "--device", "tpu"], "--device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["--task", "2AF", "--seeds", "0"], "--seeds: expected an integer from 1 to 10000, got '0'"),
        (["--task", "2AF", "--set", "seeds=1,2"], "seeds: expected one number of seeds, got 1, 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in refusal(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_help_and_fields_explain(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert text.count("python -m hpr.run --task") == 2
    assert main(["--fields"]) == 0
    text = capsys.readouterr().out
    assert "learning_rate  float; default: 0.003\n      Step size of SGD.\n" in text
    assert "  task  str; required\n" in text
    assert "  seed  int; default: 0\n" in text
    assert (
        "connectivity  Connectivity; default: the structure that has the other names, else dense"
        in text
    )
    assert main(["--fields", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"run", "svd", "file"} <= set(told)
    parser = build_parser()
    options = {word for action in parser._actions for word in action.option_strings}
    for group in told.values():
        for each in group:
            assert f"--{each['name']}" in options


def result(**values: Any) -> SweepResult:
    given = {"task": "2AF", "N": 20, "seeds": 3, "train": Trainer(), "device": "cpu", **values}
    return hpr.sweep(say=lambda line: None, **given)


def test_a_sweep_is_a_table() -> None:
    found = result(connectivity=["dense", LowRank(rank=3)], gain=[0.5, 1.0])
    assert len(found.records) == len(found.runs) == 12
    rows = found.rows()
    assert [row["connectivity"] for row in rows] == ["dense"] * 6 + ["rank 3"] * 6
    assert {row["rank"] for row in rows} == {None, 3}
    for row, spec in zip(rows, found.runs, strict=True):
        assert (row["key"], row["seed"], row["status"]) == (spec.key, spec.seed, "finished")
        assert row["kernel_alignment"] == pytest.approx(row["gain"] + row["seed"] / 10)
        assert Store("results").load(spec) is not None


def test_the_table_is_a_data_frame_where_pandas_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    found = result(connectivity=["dense", LowRank(rank=3)], gain=[0.5, 1.0])
    table, rows = found.table(), found.rows()
    assert isinstance(table, pandas.DataFrame)
    assert list(table.columns) == list(rows[0])
    assert table["seed"].tolist() == [row["seed"] for row in rows]
    # What a structure lacks is missing in the column, which is a number elsewhere.
    assert table["rank"].isna().tolist() == [row["rank"] is None for row in rows]
    by_gain = table.groupby("gain")["kernel_alignment"].mean()
    assert by_gain.to_dict() == pytest.approx({0.5: 0.6, 1.0: 1.1})
    monkeypatch.setattr("hpr.sweeps.outcome.find_spec", lambda name: None)
    assert found.table() == rows


def panels(found: SweepResult, x: str | None) -> dict[str, tuple[str, ...]]:
    return {panel.title: panel.levels for panel in found.panels(x)}


def test_a_plot_has_a_panel_for_each_value_of_the_other_names() -> None:
    both = result(rank=[1, 20], gain=[0.5, 1.0])
    assert panels(both, "rank") == {"gain = 0.5": ("1", "20"), "gain = 1": ("1", "20")}
    assert panels(both, "gain") == {"rank = 1": ("0.5", "1"), "rank = 20": ("0.5", "1")}
    assert panels(both, None) == panels(both, "rank")
    # The kind of structure follows from the rank, and tau_con from tau_chn.
    mixed = result(connectivity=[LowRank(rank=1), LowRank(rank=2), Dense()])
    assert panels(mixed, "rank") == {"": ("1", "2", "none")}
    assert panels(result(tau_chn=[-0.05, 0.05, 0.01]), "tau_chn") == {"": ("-0.05", "0.05", "0.01")}
    own = from_matrix(np.eye(20) + 0.1)
    assert panels(result(connectivity=[own, "dense"]), None) == {"": ("matrix", "dense")}
    assert panels(result(connectivity=[own, "dense"], iterations=[1, 2]), "iterations") == {
        "matrix": ("1", "2"), "dense": ("1", "2"),
    }  # fmt: skip
    assert panels(result(), None) == {"": ("dense",)}


@pytest.mark.parametrize("kind", ["dots", "boxes", "lines"])
def test_a_plot_shows_the_measures(kind: Any, tmp_path: Path) -> None:
    found = result(rank=[1, 2, 20], gain=[0.5, 1.0], learning_rate=[0.1, 2.0])
    figure = found.plot("kernel_alignment", x="rank", kind=kind, path=tmp_path / "picture.png")
    assert len(figure.axes) == 4
    titles = [axes.get_title() for axes in figure.axes]
    # The fields come in the order of the structure's and the run's.
    assert titles[0] == "gain = 0.5,\nlearning_rate = 0.1"
    first, diverged = figure.axes[0], figure.axes[1]
    assert [label.get_text() for label in first.get_xticklabels()] == ["1", "2", "20"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("rank", "kernel alignment")
    assert any("3 of 3\ndiverged" in text.get_text() for text in diverged.texts)
    if kind == "lines":
        np.testing.assert_allclose(first.lines[0].get_ydata(), 0.6)
    else:
        shown = np.sort(np.asarray(first.collections[0].get_offsets())[:, 1])
        np.testing.assert_allclose(shown, np.repeat([0.5, 0.6, 0.7], 3))
    # Every run that did not diverge is within the limits, which all panels share.
    low, high = first.get_ylim()
    assert low < 0.5 < 1.2 < high
    assert {axes.get_ylim() for axes in figure.axes} == {(low, high)}
    written = {path.name for path in tmp_path.glob("picture.*")}
    assert written == {"picture.png", "picture.pdf", "picture.svg"}
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_wrong_name_in_a_plot_is_one_line() -> None:
    found = result(rank=[1, 2])
    for arguments, message in (
        ({"measure": ["final_loss"]}, r"got \['final_loss'\]$"),
        (
            {"measure": "kernel_aligment"},
            r"got 'kernel_aligment'; did you mean 'kernel_alignment'\?",
        ),
        (
            {"measure": "kernel_alignment", "x": "rnk"},
            r"x: expected .* got 'rnk'; did you mean 'rank'\?",
        ),
        (
            {"measure": "kernel_alignment", "kind": "bars"},
            "kind: expected dots, boxes or lines, got 'bars'",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            found.plot(**arguments)


def test_python_refuses_as_the_command_line_does() -> None:
    with pytest.raises(ValueError, match=r"got 'sedes'; did you mean 'seeds'\?"):
        hpr.sweep(task="2AF", sedes=3)
    with pytest.raises(ValueError, match="device: expected auto"):
        hpr.sweep(task="2AF", device="tpu")
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        hpr.sweeep  # noqa: B018
    assert "sweep" in dir(hpr)


OWN = """
from dataclasses import dataclass
from typing import ClassVar

from hpr.connectivity import Connectivity, register


@register
@dataclass(frozen=True)
class Ring(Connectivity):
    kind: ClassVar[str] = "own_ring"
    width: int = 3

    @property
    def label(self):
        return f"width {self.width}"

    def weights(self, N, rng):
        import numpy as np
        distance = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
        return (np.minimum(distance, N - distance) <= self.width) * rng.normal(0.0, self.g, (N, N))
"""
PROGRAM = """
import sys
import hpr
assert not {"torch", "numpy", "matplotlib", "scipy"} & set(sys.modules)
from hpr.experiment import RunSpec, Store
found = hpr.sweep(
    task="2AF", connectivity=["own_ring_module:Ring", "dense"], width=[1, 2], N=20, iterations=3, seeds=2,
    device="cpu", say=lambda line: None,
)
assert [run.connectivity.kind for run in found.runs] == ["own_ring"] * 4 + ["dense"] * 2
assert all(run.drawn for run in found.runs[:4])
assert not found.failures
"""


def test_a_class_of_ones_own_in_a_process_of_its_own(tmp_path: Path) -> None:
    """It is trained for real, and the command line then finds the records; `import hpr` is light."""
    (tmp_path / "own_ring_module.py").write_text(OWN, encoding="utf-8")
    root = Path(hpr.__file__).parents[1]
    searched = os.pathsep.join([str(tmp_path), str(root), str(root / "kernels")])
    environment = {**os.environ, "PYTHONPATH": searched, "OMP_NUM_THREADS": "1"}

    def child(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    done = child("-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    words = ["--connectivity", "own_ring_module:Ring", "--set", "width=1,2", "iterations=3"]
    done = child("-m", "hpr.run", "--task", "2AF", *words, "--N", "20", "--seeds", "2", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "4 runs already in results/runs, 0 to train" in done.stdout
