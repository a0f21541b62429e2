"""From names and values to runs: the product of the axes, what follows from what is not given, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpr.connectivity import (
    EM,
    ChainMotif,
    Connectivity,
    Dale,
    Dense,
    FromFile,
    LowRank,
    SoftRank,
    from_matrix,
)
from hpr.connectivity.connectome import open_connectome
from hpr.experiment import RunSpec
from hpr.sweeps.expansion import Experiment, expand
from hpr.sweeps.field_names import COMPUTED, RUN_FIELDS, all_names, fields_of, from_text
from hpr.sweeps.parts import Sources
from hpr.sweeps.toml_form import read_sweep, sweep_text, write_sweep
from hpr.tasks import array_task

W = np.random.default_rng(0).normal(size=(20, 20))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(array_task, "_known", {})
    monkeypatch.chdir(tmp_path)
    open_connectome.cache_clear()


def structures(values: Mapping[str, Any]) -> list[Connectivity]:
    return [run.connectivity for run in expand({"task": "2AF", **values}).runs]


def test_a_sweep_is_the_product_of_its_axes() -> None:
    found = expand(
        {"task": ["2AF", "DMS"], "rank": [1, 3], "gain": [0.8, 1.5], "N": 20, "seeds": 2}
    )
    expected = {
        RunSpec(task, LowRank(rank=rank, gain=gain), seed, N=20)
        for task in ("2AF", "DMS") for rank in (1, 3) for gain in (0.8, 1.5) for seed in (0, 1)
    }  # fmt: skip
    assert set(found.runs) == expected
    assert len(found.runs) == 16
    values = [setting.values for setting in found.settings]
    assert len(values) == 8
    assert {"task": "DMS", "rank": 3, "gain": 0.8} in values
    assert all(len({run.seed for run in setting.runs}) == 2 for setting in found.settings)


def test_one_run_is_the_specifications_default() -> None:
    (run,) = expand({"task": "2AF"}).runs
    assert run == RunSpec("2AF", Dense(), 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, Dense(gain=1.5)),
        ({"gain": 0.7}, Dense(gain=0.7)),
        ({"distribution": "uniform"}, Dense(distribution="uniform", gain=1.5)),
        ({"rank": 2}, LowRank(rank=2, gain=1.5)),
        ({"rank": 2, "rescale": "eigenvalue"}, LowRank(rank=2, rescale="eigenvalue", gain=1.5)),
        ({"k": 2, "gain": 1}, SoftRank(k=2, gain=1.0)),
        ({"tau_chn": -0.05}, ChainMotif(tau_chn=-0.05, gain=1.5)),
        ({"shuffled": True}, EM(shuffled=True, gain=1.5)),
        ({"variant": "released"}, Dense(gain=1.25)),
        ({"connectivity": "dale"}, Dale(gain=1.5)),
        ({"connectivity": "Dale", "excitatory": 0.5}, Dale(excitatory=0.5, gain=1.5)),
        ({"connectivity": {"kind": "svd", "rank": 4}}, LowRank(rank=4, gain=1.5)),
        ({"connectivity": Dale}, Dale(gain=1.5)),
        ({"connectivity": LowRank(rank=5, gain=2), "distribution": "uniform"},
         LowRank(rank=5, gain=2, distribution="uniform")),
    ],
)  # fmt: skip
def test_the_structure_follows_from_the_names(values: dict[str, Any], expected: Any) -> None:
    assert structures(values) == [expected]


def test_an_axis_multiplies_only_the_structures_that_have_it() -> None:
    found = structures({"connectivity": ["dense", "svd"], "rank": [1, 2], "gain": [1.0, 2.0]})
    assert found == [
        Dense(gain=1.0), Dense(gain=2.0),
        *(LowRank(rank=rank, gain=gain) for rank in (1, 2) for gain in (1.0, 2.0)),
    ]  # fmt: skip


def test_n_is_that_of_the_matrix_and_of_its_null() -> None:
    own = from_matrix(W)
    found = expand({"task": "2AF", "connectivity": [own, "dense"]})
    assert [(run.N, type(run.connectivity)) for run in found.runs] == [(20, FromFile), (20, Dense)]
    assert [setting.values["connectivity"] for setting in found.settings] == ["matrix", "dense"]
    other = from_matrix(W[:7, :7], "smaller")
    found = expand({"task": "2AF", "connectivity": [own, other, "dense"]})
    assert [run.N for run in found.runs] == [20, 7, 7, 20]
    with pytest.raises(ValueError, match="N: expected the 20 units of 'matrix-"):
        expand({"task": "2AF", "connectivity": own, "N": 21})


def test_a_gain_multiplies_no_weights_that_are_kept() -> None:
    for own in (
        {"connectivity": [from_matrix(W, rescale="kept"), "dense"]},
        {"connectivity": [from_matrix(W), "dense"], "rescale": "kept"},
    ):
        found = structures({**own, "gain": [0.5, 1.0]})
        assert [type(each) for each in found] == [FromFile, Dense, Dense]
    with pytest.raises(ValueError, match="gain: expected a connectivity that it has an effect on"):
        structures({"connectivity": from_matrix(W, rescale="kept"), "gain": [0.5, 1.0]})


def test_structures_of_one_label_are_told_apart() -> None:
    found = expand({"task": "2AF", "connectivity": [Dale(), Dale(excitatory=0.5)]})
    assert [setting.connectivity for setting in found.settings] == ["dale", "dale(excitatory=0.5)"]


def test_files_are_parts(tmp_path: Path) -> None:
    np.save("own.npy", W)
    np.savez("two.npz", a=W, b=W.T)
    np.savez("trials.npz", inputs=W[None, :, :2], targets=[1])
    for value in (
        "file:own.npy",
        "own.npy",
        {"file": "own.npy"},
        {"file": "two.npz", "array": "b", "transpose": True},
    ):
        (run,) = expand({"task": "file:trials.npz", "connectivity": value}).runs
        assert run.task.startswith("trials:trials-")
        assert (run.N, run.task_version) == (20, "1")
        drawn = run.connectivity.draw(20, 0)
        np.testing.assert_allclose(drawn / np.linalg.norm(drawn), W / np.linalg.norm(W))
    (run,) = expand({"task": "2AF", "connectivity": "file:two.npz#b"}).runs
    assert run.connectivity.label == "two_b"


def test_a_task_takes_the_version_that_it_has() -> None:
    names = ["2AF", "sDigits", "pattern generation", "GoNogo-v0"]
    found = expand({"task": names, "N": 10, "batch": 1, "trials": 99})
    assert [run.task_version for run in found.runs] == ["0.0.2", "1", "1", "2.3"]
    (run,) = expand({"task": {"name": "GoNogo-v0", "timing": {"delay": 100}}, "N": 10}).runs
    assert run.task == "GoNogo-v0(timing={'delay': 100})"


def test_a_run_is_bound_before_it_is_trained() -> None:
    (run,) = expand({"task": "GoNogo-v0", "N": 10}).runs
    assert run.content is not None


def test_a_teacher_is_like_its_student_and_comes_first() -> None:
    found = expand(
        {
            "task": "2AF", "N": 20, "aligned": "features", "seeds": 2, "learning_rate": [0.1, 0.2],
            "teacher": {"seed": 7, "rank": 2, "connectivity": "svd", "learning_rate": 0.3},
        }
    )  # fmt: skip
    teacher, *students = found.runs
    assert teacher == RunSpec("2AF", LowRank(rank=2), 7, N=20, keep_weights=True, learning_rate=0.3)
    assert [student.teacher for student in students] == [teacher] * 4


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no task": ({"task": None}, "task: expected a name, a class or a task, got None"),
    "another task": ({"task": "DMSS"}, r"got 'DMSS'.*; did you mean 'DMS'\?"),
    "a name": ({"lerning_rate": 1}, r"lerning_rate: expected .* got 'lerning_rate'; did you mean 'learning_rate'\?"),
    "a letter's case": ({"n": 20}, r"got 'n'; did you mean 'N'\?"),
    "a value": ({"learning_rate": "fast"}, "learning_rate: expected a finite number, got 'fast'"),
    "one value of several": ({"N": [10, 0]}, "N: expected an integer of at least 1, got 0"),
    "no values": ({"N": []}, "N: expected a value or a list of values, got an empty list"),
    "a kind": ({"connectivity": "lowrank"}, r"got 'lowrank'; did you mean 'LowRank'\?"),
    "a kind's field": ({"connectivity": "dense", "rank": 2}, r"rank: expected a connectivity .*\(svd\), got dense"),
    "two kinds' fields": ({"rank": 1, "k": 2}, r"connectivity: expected which .*rank of svd; k of soft_rank"),
    "a table's field": ({"connectivity": {"kind": "svd", "rnk": 2}}, r"got 'rnk'; did you mean 'rank'\?"),
    "a table": ({"connectivity": {"rank": 2}}, "expected kind or file in a table"),
    "no structure": ({"connectivity": 3}, "connectivity: expected a structure, an array or a name, got 3"),
    "an array": ({"connectivity": W[:3]}, r"weights: expected a square matrix"),
    "a class": ({"connectivity": "builtins:int"}, "a class that hpr.connectivity.register decorates"),
    "a rank above N": ({"rank": 30, "N": 20}, "rank: expected at most N = 20, got 30"),
    "a hash": ({"content": "0" * 16}, "content: expected nothing, since it is computed"),
    "seeds in both forms": ({"seeds": 2, "seed": [3]}, "seeds: expected seeds, their number, or seed"),
    "no seeds": ({"seeds": 0}, "seeds: expected an integer of at least 1, got 0"),
    "half a seed": ({"seeds": 1.5}, "seeds: expected a number of seeds, got 1.5"),
    "a seed twice": ({"seed": [3, 3]}, "seed: expected each value once, got 3 twice"),
    "a value twice": ({"gain": [1, 0.5, 1]}, "gain: expected each value once, got 1 twice"),
    "a value in two types": ({"gain": [1, 1.0]}, "gain: expected each value once, got 1 twice"),
    "a value of NumPy's": ({"rank": [1, np.int64(1)]}, "rank: expected each value once, got 1 twice"),
    "an option": ({"mnist_dir": "x"}, "got 'mnist_dir', which is no field but the option --mnist-dir of hpr.run"),
    "a structure twice": ({"connectivity": ["dense", "Dense"]}, "connectivity: expected .* once, got dense twice"),
    "a gain without effect": (
        {"connectivity": from_matrix(W, write=False), "rescale": "kept", "gain": [1.0, 2.0]},
        r"gain: expected a connectivity that it has an effect on .*, got file with rescale = 'kept'$",
    ),
    "steps in two layers": ({"model": "two_layer"}, "model: expected a leaky RNN for the 8 steps of 2AF"),
    "accuracy of a regression": (
        {"task": "pattern generation", "stop_accuracy": 0.9}, "stop_accuracy: expected None for a regression, got 0.9"
    ),
    "more than all pictures": (
        {"task": "sDigits", "trials": 298}, "trials: expected at most 297, the evaluation trials of sDigits, got 298"
    ),
    "a batch of more": (
        {"task": "sDigits", "batch": 2000, "trials": 99}, "batch: expected at most 1500, the train trials of sDigits"
    ),
    "too many": ({"seeds": 10_000, "N": list(range(1, 12))}, "runs: expected at most 100,000, got 110,000"),
    "a teacher": ({"teacher": "best"}, "teacher: expected a table of fields, got 'best'"),
    "a teacher's field": ({"teacher": {"sed": 1}}, r"got 'sed'; did you mean 'seed'\?"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        expand({"task": "2AF", **values})
    assert "\n" not in str(caught.value)


def test_every_field_is_named_and_explained() -> None:
    assert set(RUN_FIELDS) | set(COMPUTED) == set(RunSpec.__dataclass_fields__)
    for cls in (RunSpec, Dense, LowRank, SoftRank, ChainMotif, EM, Dale, FromFile):
        for each in fields_of(cls):
            assert each.meaning, f"{cls.__name__}.{each.name}"
            assert each.name in all_names()
    meanings = {each.name: each for each in fields_of(LowRank)}
    assert meanings["distribution"].meaning == "N(0, g²/N), or uniform within ±g/√N."
    assert (meanings["rank"].type, meanings["rank"].default) == ("int", "1")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("N", "20", 20), ("N", "x", "x"), ("gain", "1e-1", 0.1), ("gain", "none", None), ("task", "none", "none"),
        ("keep_weights", "true", True), ("shuffled", "False", False), ("stop_accuracy", "None", None),
        ("task_version", "2.3", "2.3"), ("leak", "euler", "euler"), ("seed", "3", 3),
        ("ntk_parameters", "recurrent+input", ("recurrent", "input")), ("shuffled", "maybe", "maybe"),
    ],
)  # fmt: skip
def test_text_becomes_a_value_of_the_field(name: str, text: str, value: Any) -> None:
    found = from_text(name, text)
    assert (found, type(found)) == (value, type(value))


def again(experiment: Experiment, path: Path) -> Experiment:
    sources = Sources()
    return expand(read_sweep(write_sweep(experiment, path), sources), sources=sources)


SWEEPS: dict[str, dict[str, Any]] = {
    "one run": {},
    "axes": {"rank": [1, 2], "gain": [0.5, 2], "learning_rate": [1e-5, 0.1], "seeds": 3, "keep_weights": [True, False]},
    "seeds": {"seed": [5, 9], "N": 12},
    "structures": {"connectivity": ["dense", LowRank(rank=3), Dale(0.3, 0.5), ChainMotif(tau_chn=-0.1)]},
    "an axis of a structure that is given": {"connectivity": ChainMotif(tau_rec=0.1), "tau_chn": [0.01, 0.02]},
    "a matrix and its null": {"connectivity": [from_matrix(W, write=False), "dense"], "shuffled": [False, True]},
    "files": {"connectivity": ["file:own.npy", {"file": "two.npz", "array": "b", "transpose": True}, "dense"]},
    "trials": {"task": ["file:trials.npz", "2AF"], "N": 10},
    "an environment": {"task": {"name": "GoNogo-v0", "timing": {"delay": 100}}, "N": 10},
    "variants": {"variant": ["paper", "released"], "stop_accuracy": [None, 0.9]},
    "parameters": {"variant": "released", "ntk_parameters": ["recurrent"], "leak": "euler"},
    "teacher": {"aligned": "features", "teacher": {"seed": 9, "rank": 2, "connectivity": "svd"}, "N": [20, 30]},
    "a whole teacher": {"aligned": "features", "teacher": RunSpec("2AF", Dense(), 9, N=20, keep_weights=True), "N": 20},
}  # fmt: skip


@pytest.mark.parametrize("values", SWEEPS.values(), ids=SWEEPS)
def test_the_file_beside_the_results_makes_the_same_runs(
    values: dict[str, Any], tmp_path: Path
) -> None:
    np.save("own.npy", W)
    np.savez("two.npz", a=W, b=W.T)
    np.savez("trials.npz", inputs=W[None, :, :2], targets=[1])
    first = expand({"task": "2AF", **values})
    second = again(first, tmp_path / "out")
    assert [run.key for run in second.runs] == [run.key for run in first.runs]
    assert [each.values for each in second.settings] == [each.values for each in first.settings]
    assert sweep_text(second) == sweep_text(first)


def test_a_file_that_has_changed_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    """Neither by its name in a new sweep, nor by the file of an old sweep whose matrix the cache has lost."""
    np.save("own.npy", W)
    first = expand({"task": "2AF", "connectivity": "file:own.npy"})
    path = write_sweep(first, tmp_path / "out")
    np.save("own.npy", W + 1)
    assert expand({"task": "2AF", "connectivity": "file:own.npy"}).runs != first.runs
    assert again(first, tmp_path / "out").runs == first.runs
    for kept in (tmp_path / "cache" / "connectomes").iterdir():
        kept.unlink()
    open_connectome.cache_clear()
    with pytest.raises(ValueError, match=r"own.npy: expected the content of 'own-"):
        read_sweep(path, Sources())
    np.save("own.npy", W)
    sources = Sources()
    assert expand(read_sweep(path, sources), sources=sources).runs == first.runs


def test_another_sweep_keeps_its_file(tmp_path: Path) -> None:
    first, second = expand({"task": "2AF"}), expand({"task": "DMS"})
    for experiment in (first, second, second):
        path = write_sweep(experiment, tmp_path)
    assert path.read_text(encoding="utf-8") == sweep_text(second)
    (aside,) = tmp_path.glob("sweep-*.toml")
    assert aside.read_text(encoding="utf-8") == sweep_text(first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = ", "expected TOML, got an error"),
        ('task = "2AF"\nfiles = 3', "expected tables with a file under files, got 3"),
        ('task = "2AF"\n[files]\n"trials:x-012345678901" = {file = "none.npz"}', "none.npz"),
    ],
)
def test_a_bad_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=message):
        read_sweep(path, Sources())
