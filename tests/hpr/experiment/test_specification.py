"""These tests check specifications, keys, packs and costs."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hpr.connectivity import EM, Dale, Dense, LowRank
from hpr.experiment.binding import bind
from hpr.experiment.cost import cost
from hpr.experiment.plan import packs
from hpr.experiment.specification import VARIANTS, YOUNGER, RunSpec, distinct
from hpr.tasks import make_task

SPEC = RunSpec("2AF", LowRank(rank=30), seed=3)


def test_round_trip_and_key() -> None:
    plain = json.loads(json.dumps(SPEC.to_dict()))
    assert RunSpec.from_dict(plain) == SPEC
    assert RunSpec.from_dict(plain).key == SPEC.key
    assert len(SPEC.key) == 16


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_with_another_seed_is_that_run(variant: str) -> None:
    base = replace(SPEC, variant=variant, leak=None, ntk_parameters=None)
    for seed in (0, 5, 2**63 - 1):
        other = replace(base, seed=seed)
        assert base.at_seed(seed) == other
        assert (base.at_seed(seed).key, hash(base.at_seed(seed))) == (other.key, hash(other))
    with pytest.raises(ValueError, match="seed: expected an integer of at least 0, got -1"):
        base.at_seed(-1)


def test_key_is_stable_over_releases() -> None:
    """A changed key orphans everybody's finished runs: if this fails, say so in the changelog."""
    assert SPEC.key == "a06cae4070d36a2b"


def test_younger_fields_are_written_where_they_say_something() -> None:
    """Runs from before these fields existed keep their keys."""
    assert not set(YOUNGER) & set(SPEC.to_dict())
    changed = {
        "activation": "linear",
        "readout_deviation": 1.0,
        "aligned": "features",
        "teacher": replace(SPEC, seed=9, keep_weights=True),
        "checkpoints": 3,
        "keep_weights": True,
    }
    student = replace(SPEC, **changed)
    plain = json.loads(json.dumps(student.to_dict()))
    assert set(changed) <= set(plain)
    assert RunSpec.from_dict(plain) == student
    assert len({replace(SPEC, **{name: value}).key for name, value in changed.items()}) == 6
    bound = replace(SPEC, content="0123456789abcdef")
    assert bound.key != SPEC.key
    assert bound.shape != SPEC.shape
    assert RunSpec.from_dict(json.loads(json.dumps(bound.to_dict()))) == bound
    assert replace(SPEC, model="two_layer").key != SPEC.key
    one, other = (replace(student, teacher=t, aligned=None) for t in (changed["teacher"], None))
    assert one.shape == other.shape == student.shape


def test_the_variant_alone_sets_what_follows_from_it() -> None:
    named = {"variant": "released", **VARIANTS["released"]}
    structures = [
        (structure, replace(structure, gain=1.25))
        for structure in (Dense(), LowRank(rank=3), Dale())
    ]
    for unnamed, structure in structures:
        alone = RunSpec("2AF", unnamed, seed=3, variant="released")
        assert alone == RunSpec("2AF", structure, seed=3, **named)
        assert alone.to_dict()["connectivity"]["gain"] == 1.25
        assert alone.rho == 0.0
        assert alone.ntk_parameters == ("recurrent",)
    assert RunSpec("2AF", Dense(), 0).connectivity == Dense(gain=1.5)
    # A gain that is named is kept, as the gain sweep of Figure 11 needs.
    assert RunSpec("2AF", Dense(gain=1.5), 0, variant="released").connectivity.g == 1.5


def test_a_gain_that_is_not_named_is_the_papers_outside_a_run() -> None:
    for structure in (Dense(), LowRank(rank=3), Dale()):
        assert (structure.draw(33, 0) == replace(structure, gain=1.5).draw(33, 0)).all()
        assert structure.g == 1.5


def test_checking_a_specification_opens_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a connectome's file is opened: its size is checked when a run is bound."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"opened {arguments}")

    structure = EM(connectome="no such connectome")
    with monkeypatch.context() as patch:
        for name in ("builtins.open", "io.open", "os.open", "pathlib.Path.open"):
            patch.setattr(name, refuse)
        spec = RunSpec("sMNIST", structure, seed=0, task_version="1", N=5)
        assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    wrong = RunSpec("2AF", EM(), seed=0, N=5)
    with pytest.raises(ValueError, match="N: expected the 297 cells of the connectome"):
        bind(wrong, make_task("2AF"))


def test_numbers_that_are_equal_have_one_key() -> None:
    assert replace(SPEC, dt=100, momentum=0.9).key == SPEC.key
    assert replace(SPEC, stop_accuracy=1).key == replace(SPEC, stop_accuracy=1.0).key
    assert (
        RunSpec("2AF", LowRank(rank=30, gain=2), 0).key
        == RunSpec("2AF", LowRank(rank=30, gain=2.0), 0).key
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"connectivity": LowRank(rank=31)},
        {"connectivity": Dense()},
        {"task_version": "2.3"},
        {"iterations": 9},
        {"variant": "released", **VARIANTS["released"]},
    ],
    ids=str,
)
def test_every_difference_changes_the_key(change: dict[str, Any]) -> None:
    assert replace(SPEC, **change).key != SPEC.key


def test_leak() -> None:
    assert SPEC.rho == pytest.approx(math.exp(-1))
    assert replace(SPEC, dt=20).rho == pytest.approx(math.exp(-0.2))
    assert replace(SPEC, variant="released", **VARIANTS["released"]).rho == 0.0


def test_packs_hold_equal_shapes_and_each_run_once() -> None:
    small = [RunSpec("2AF", LowRank(rank=r), s) for r in (1, 2) for s in range(3)]
    other = [replace(spec, task="DMS") for spec in small]
    mixed = [spec for pair in zip(small, other, strict=True) for spec in pair]
    formed = packs([*mixed, *mixed], lambda shape: 4)
    assert [len(pack) for pack in formed] == [4, 2, 4, 2]
    assert all(len({spec.shape for spec in pack}) == 1 for pack in formed)
    assert sorted(map(str, distinct(mixed))) == sorted(str(s) for pack in formed for s in pack)


def test_cost_is_that_of_the_products() -> None:
    """The cost of a run of two steps equals a hand count of its products, with a multiply-add counted as two."""
    spec = RunSpec("2AF", Dense(), 0, N=7, batch=5, iterations=3)
    recurrent, edges = 5 * 7 * 7, 2 * 5 * 7 * (2 + 4)
    task = SimpleNamespace(T=2, N_in=2, N_out=4, loss_steps="all")
    assert cost([spec], task).training_flops == 3 * 2 * 3 * (recurrent + edges)
    assert cost([spec] * 4, task).training_flops == 4 * cost([spec], task).training_flops
    assert cost([spec], task).kernel_flops > cost([spec], last_step(task)).kernel_flops


def test_cost_of_two_layers_and_of_trajectories() -> None:
    """Two layers cost three products per layer and iteration and no N x N weights; each point adds a kernel."""
    spec = RunSpec("Digits", Dense(), 0, N=7, batch=5, iterations=3, model="two_layer")
    task = SimpleNamespace(T=1, N_in=2, N_out=4, loss_steps="last")
    assert cost([spec], task).training_flops == 3 * 2 * 3 * 5 * 7 * (2 + 4)
    recurrent = cost([replace(spec, model="leaky_rnn")], task)
    assert recurrent.memory - cost([spec], task).memory == 4 * 5 * 7 * 7
    kernel_flops = [
        cost([replace(spec, checkpoints=points)], task).kernel_flops for points in (0, 1, 4)
    ]
    assert kernel_flops[2] - kernel_flops[0] == 4 * (kernel_flops[1] - kernel_flops[0]) > 0


def last_step(task: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(task), "loss_steps": "last"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"N": 20}, "rank: expected at most N = 20, got 30"),
        ({"N": 0}, "N: expected an integer of at least 1, got 0"),
        ({"iterations": 0}, "iterations: expected an integer of at least 1, got 0"),
        ({"batch": 1.5}, "batch: expected an integer"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"variant": "draft"}, "variant: expected one of .* got 'draft'"),
        ({"leak": "euler"}, "leak: expected 'exponential' in the variant 'paper', got 'euler'"),
        ({"variant": "released"}, "leak: expected 'euler' in the variant 'released'"),
        ({"tau": float("inf")}, "tau: expected a finite number, got inf"),
        ({"learning_rate": float("inf")}, "learning_rate: expected a finite number, got inf"),
        ({"dt": 101}, "dt: expected 0 < dt <= tau"),
        ({"learning_rate": 0}, "learning_rate: expected a positive"),
        ({"momentum": 1}, "momentum: expected 0 <= momentum < 1"),
        ({"stop_accuracy": 97}, "stop_accuracy: expected a share"),
        ({"ntk_parameters": ("recurrent",)}, "ntk_parameters: expected .* in the variant 'paper'"),
        ({"kernel_trials": 321}, "kernel_trials: expected at most trials = 320, got 321"),
        ({"model": "transformer"}, "model: expected one of .* got 'transformer'"),
        ({"activation": "sigmoid"}, "activation: expected one of .* got 'sigmoid'"),
        ({"aligned": "all"}, "aligned: expected one of .* got 'all'"),
        ({"model": "two_layer", "connectivity": Dale()}, "connectivity: expected a dense or low-"),
        ({"readout_deviation": 0}, "readout_deviation: expected a positive finite number, got 0"),
        ({"checkpoints": -1}, "checkpoints: expected an integer of at least 0, got -1"),
        ({"teacher": SPEC}, "teacher: expected a leaky RNN of .* that keeps its weights"),
        (
            {"teacher": replace(SPEC, keep_weights=True), "content": "0" * 16},
            "teacher: expected a leaky RNN of .*'0000000000000000'",
        ),
        ({"content": "0123"}, "content: expected None or 16 hexadecimal digits, got '0123'"),
        ({"content": "0123456789ABCDEF"}, "content: expected None or 16 hexadecimal digits"),
        ({"seed": True}, "seed: expected an integer, got True"),
        ({"keep_weights": 1}, "keep_weights: expected a bool, got 1"),
        ({"task": None}, "task: expected a line of at most 200 characters, got None"),
        ({"task": "2AF\0"}, r"task: expected a line of at most 200 characters, got '2AF\\x00'"),
        ({"N": 10**30}, "N: expected an integer of at most 1000000000, got 1000000"),
        ({"seed": 2**63}, "seed: expected an integer of at most 9223372036854775807"),
        ({"dt": 1e-300}, "dt: expected a step in which something leaks at tau = 100.0 ms, got"),
        ({"connectivity": "svd"}, "connectivity: expected a Connectivity, got 'svd'"),
        ({"teacher": {}}, "teacher: expected a RunSpec or None, got {}"),
    ],
    ids=str,
)
def test_bad_input_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SPEC, **change)


def test_a_key_is_computed_once_and_is_no_part_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RunSpec("2AF", LowRank(rank=30), seed=3)
    key = spec.key
    monkeypatch.setattr(RunSpec, "to_dict", lambda self: {"another": "form"})
    assert spec.key == key
    # A pickled, copied or changed run does not take the stored key along, so it computes its own.
    others = [pickle.loads(pickle.dumps(spec)), copy.copy(spec), replace(spec)]
    assert all((other == spec, hash(other)) == (True, hash(spec)) for other in others)
    assert all(other.key != key for other in others)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="run specification: expected the fields"):
        RunSpec.from_dict({**SPEC.to_dict(), "colour": 1})
    with pytest.raises(ValueError, match="size: expected a pack of at least 1"):
        packs([SPEC], lambda shape: 0)
