"""The gate: which results pass, which are stopped, and that planted regressions are stopped."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from asv.results import Results
from asv.runner import BenchmarkResult

from benchmarks import gate
from benchmarks.__main__ import main
from benchmarks.suites import guards, measure
from hpr.experiment import store
from hpr_kernels.gram import eager as gram
from hpr_kernels.recurrence import eager as recurrence

MACHINE = {
    "machine": "here", "os": "Linux", "arch": "x86_64", "cpu": "one", "num_cpu": "2", "ram": "8",
}  # fmt: skip
FLOORS = json.loads(gate.FLOORS.read_text())
EXACT = BenchmarkResult([], [], [], 0, "", None)


def result(
    values: dict[str, Any], commit: str = "a" * 40, spread: float = 0.0, **machine: str
) -> Results:
    """One asv result: a `track_` benchmark has its value, a `time_` benchmark samples within ± spread of its value."""
    made = Results({**MACHINE, **machine}, {}, commit, 0, "3.11", "env", {})
    for name, value in values.items():
        params = [["'a'", "'b'"]] if isinstance(value, list) else []
        found = value if isinstance(value, list) else [value]
        timed = ".time_" in name
        samples = [
            [one * (1 + spread * i / 5) for i in range(-5, 6)] if timed and one else None
            for one in found
        ]
        benchmark = {
            "name": name, "version": "1", "params": params, "type": "time" if timed else "track",
        }  # fmt: skip
        numbers = [1 if one else None for one in samples]
        made.add_result(
            benchmark, EXACT._replace(result=found, samples=samples, number=numbers),
            record_samples=True,
        )  # fmt: skip
    return made


def kept(folder: Path, *results: Results) -> list[str]:
    """Save results in asv's folder, and return their commits."""
    for one in results:
        one.save(str(folder))
    return [str(one.commit_hash) for one in results]


FLOOR = {"guards.A.track_x": {"at_most": 2.0, "because": "…"}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.9, []),
        (2.0, []),
        (float("nan"), []),
        (2.1, ["guards.A.track_x: expected at most 2, got 2.1"]),
        (None, ["guards.A.track_x: expected a value, got none: it failed or did not run"]),
    ],
)
def test_a_guard_is_held_against_its_floor(value: float | None, said: list[str]) -> None:
    assert list(gate.beyond_floors(result({"guards.A.track_x": value}), FLOOR)) == said


def test_a_guard_that_did_not_run_and_one_without_a_floor_are_stopped() -> None:
    lines = list(gate.beyond_floors(result({"guards.A.track_y": [1.0, 2.0]}), FLOOR))
    assert [line.split(":")[0] for line in lines] == [
        "guards.A.track_x",
        "guards.A.track_y('a')",
        "guards.A.track_y('b')",
    ]


def test_every_guard_has_a_floor_and_every_floor_a_guard() -> None:
    suites = [guards.Slowdowns, guards.Growth, guards.Counts, guards.Memory]
    labels = {
        f"guards.{suite.__name__}.{name}" + (f"({', '.join(map(repr, chosen))})" if chosen else "")
        for suite in suites
        for name in vars(suite)
        if name.startswith("track_")
        for chosen in product(*getattr(suite, "params", ()))
    }
    assert labels == FLOORS.keys()


@pytest.mark.parametrize(
    ("before", "now", "stopped"),
    [(1.0, 1.1, False), (1.0, 1.3, True), (1.0, 0.5, False), (1.0, None, True)],
)
@pytest.mark.parametrize("name", ["ntk.NTK.time_ntk", "guards.A.track_x"])
def test_two_results_are_compared(
    tmp_path: Path, name: str, before: float, now: float | None, stopped: bool
) -> None:
    commits = kept(tmp_path, result({name: now}), result({name: before}, "b" * 40))
    assert main(["gate", *commits, "--results", str(tmp_path)]) == int(stopped)


def test_a_time_is_worse_only_where_its_interval_lies_beyond() -> None:
    old = result({"ntk.NTK.time_ntk": 1.0}, spread=0.5)
    new = result({"ntk.NTK.time_ntk": 1.3}, spread=0.5)
    assert list(gate.worse(new, old, 1.2)) == []
    assert len(list(gate.worse(result({"ntk.NTK.time_ntk": 6.0}, spread=0.5), old, 1.2))) == 1


@pytest.mark.parametrize("key", ["machine", "cpu", "num_cpu"])
def test_results_of_two_machines_are_not_compared(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"guards.A.track_x": 1.0}
    commits = kept(tmp_path, result(values), result(values, "b" * 40, **{key: "other"}))
    with pytest.raises(SystemExit, match="2"):
        main(["gate", *commits, "--results", str(tmp_path)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"benchmarks gate: error: results: expected of one machine, got {key} ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["abcdef"], "result: expected one of abcdef in"),
        (["a", "b", "--factor", "0.5"], "--factor: expected a number of at least 1, got 0.5"),
        (["a", "b", "--factor", "nan"], "--factor: expected a number of at least 1, got nan"),
        (["--factor", "2"], "--factor: expected with two results"),
        (["broken.json"], "result: expected asv's JSON in broken.json, got"),
    ],
)
def test_bad_usage_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text("{")
    with pytest.raises(SystemExit, match="2"):
        main(["gate", *arguments, "--results", str(tmp_path)])
    assert said in capsys.readouterr().err.splitlines()[-1]


def drop_causal_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram, "first_output", lambda reach, step: 0)
    monkeypatch.setattr(gram, "halves", lambda reach, steps: [(0, steps, 0)])


def lose_block_symmetry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, order in list(gram.ORDERS.items()):

        def whole(
            K: Any, left: Any, right: Any, symmetric: bool, *others: Any, order: Any = order
        ) -> None:
            order(K, left, right, False, *others)

        monkeypatch.setitem(gram.ORDERS, name, whole)


def add_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = recurrence.forward

    def copying(trace: Any, *others: Any) -> None:
        forward(trace, *others)
        trace.clone()

    monkeypatch.setattr(recurrence, "forward", copying)


@cache
def work_of(call: str) -> measure.Work:
    """The work of a call without a planted regression."""
    counts = guards.Counts()
    counts.setup(call)
    return counts.work


@pytest.mark.parametrize(
    ("plant", "call", "guard"),
    [
        (drop_causal_skip, "NTK, propagate", "track_multiply_adds"),
        (drop_causal_skip, "NTK, hadamard", "track_multiply_adds"),
        (lose_block_symmetry, "NTK, propagate", "track_multiply_adds"),
        (lose_block_symmetry, "NTK, hadamard", "track_multiply_adds"),
        (lose_block_symmetry, "NTK, dense", "track_multiply_adds"),
        (add_copy, "training", "track_copied"),
        (add_copy, "training", "track_allocated"),
        (add_copy, "forward and backward", "track_copied"),
        (add_copy, "NTK, propagate", "track_copied"),
    ],
)
def test_a_planted_regression_is_stopped(
    plant: Any, call: str, guard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = FLOORS[f"guards.Counts.{guard}({call!r})"]["at_most"]
    counts = guards.Counts()
    counts.work = work_of(call)
    assert getattr(counts, guard)(call) <= floor
    plant(monkeypatch)
    counts.setup(call)
    assert getattr(counts, guard)(call) > floor


@pytest.mark.parametrize("call", guards.COUNTED)
@pytest.mark.parametrize("guard", ["track_multiply_adds", "track_allocated", "track_copied"])
def test_the_floor_of_a_count_is_not_loose(guard: str, call: str) -> None:
    """Otherwise a call that became cheaper would leave room for a regression."""
    counts = guards.Counts()
    counts.work = work_of(call)
    floor = FLOORS[f"guards.Counts.{guard}({call!r})"]["at_most"]
    assert floor <= 1.012 * getattr(counts, guard)(call)


def test_a_store_that_scans_its_folder_for_every_run_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = store.Store.load

    def scan(self: store.Store, spec: Any) -> Any:
        assert self.path(spec) in [path for path in self.runs.iterdir() if path.is_file()]
        return load(self, spec)

    monkeypatch.setattr(store.Store, "load", scan)
    power = measure.exponent(guards.finding_call, (100, 400), rounds=3)
    assert power > FLOORS["guards.Growth.track_exponent('finding in runs')"]["at_most"]


def test_counts_are_the_same_every_time() -> None:
    call = guards.COUNTED["training"]()
    assert measure.work(call) == measure.work(call)


def test_an_exponent_is_that_of_the_growth() -> None:
    import torch

    def product_of(size: int) -> measure.Call:
        A = torch.randn(size, size)
        return lambda: A @ A

    assert 2.0 < measure.exponent(product_of, (128, 256, 512)) < 4.0
