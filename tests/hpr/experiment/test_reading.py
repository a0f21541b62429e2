"""Many records are read by several processes, with the results of one."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from hpr.connectivity import Connectivity, LowRank, Matrix, registry
from hpr.experiment import inventory, reading
from hpr.experiment.inventory import Bad, each_kept, kept_key
from hpr.experiment.record import Record
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.experiment.table import columns_of
from hpr.store import main

SPECS = [RunSpec("2AF", LowRank(rank=3), seed, N=10, iterations=200) for seed in range(12)]


def record_of(spec: RunSpec) -> Record:
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {"iteration": [100, 200], "loss": [1.0, 0.5]},
        "measures": {"kernel_alignment": 1 / (3 + spec.seed), "final_loss": None},
        "flags": ['a "quoted" word'] if spec.seed == 1 else [],
        "provenance": {"device": "cpu"},
        "timings": {"training_s": 1.0},
    }


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "out")
    for spec in SPECS:
        found.save(record_of(spec))
    return found


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two processes read, three files at a time; the list counts the processes that were started."""
    started: list[int] = []
    start = reading._reader

    def counting() -> object:
        started.append(1)
        return start()

    monkeypatch.setattr(reading, "WORTH", 4)
    monkeypatch.setattr("hpr.experiment.store.WORTH", 4)
    monkeypatch.setattr(reading, "CHUNK", 3)
    monkeypatch.setattr(reading, "cores", lambda: 2)
    monkeypatch.setattr(reading, "_reader", counting)
    return started


def number_of(path: Path) -> int:
    """The number that a file's name is; the process ends at 7, unless it is the one that asked."""
    if path.name == "7" and os.environ.get("HPR_ASKED") is None:
        os._exit(1)
    return int(path.name)


def test_what_is_found_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK", 2)
    paths = [Path(str(number)) for number in range(7)]
    assert list(reading.each_file(number_of, paths, processes=3)) == [*range(7)]
    assert list(reading.each_file(number_of, paths, processes=1)) == [*range(7)]
    assert list(reading.each_file(number_of, [], processes=3)) == []


def test_what_a_dead_process_owes_is_read_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "CHUNK", 2)
    found = reading.each_file(number_of, [Path(str(number)) for number in range(12)], processes=2)
    first = next(found)
    # The processes have their environment now.
    monkeypatch.setenv("HPR_ASKED", "1")
    assert [first, *found] == [*range(12)]


def test_few_files_are_read_here(store: Store, several: list[int]) -> None:
    assert store.holding(SPECS[:7])(SPECS[0])
    assert several == []


def test_runs_are_found_as_one_by_one(store: Store, several: list[int]) -> None:
    missing = replace(SPECS[0], seed=99)
    asked = [*SPECS, missing]
    holds, load = store.holding(asked), store.loading(asked)
    assert len(several) == 4
    assert [holds(spec) for spec in asked] == [spec in store for spec in asked]
    assert [load(spec) for spec in asked] == [*map(record_of, SPECS), None]


def test_damage_is_found_as_one_by_one(
    store: Store, several: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    cut, edited, foreign, folder = (store.path(spec) for spec in SPECS[:4])
    cut.write_bytes(cut.read_bytes()[:-9])
    edited.write_text(edited.read_text().replace("0.25", "0.75"))
    foreign.write_text(foreign.read_text().replace('"schema": 1', '"schema": 2'))
    folder.unlink()
    folder.mkdir()
    other = store.path(SPECS[4])
    other.write_bytes(store.path(SPECS[5]).read_bytes())
    before = sorted(store.runs.iterdir())
    holds = store.holding(SPECS)
    assert len(several) == 2
    assert [holds(SPECS[place]) for place in (0, 1, 4, 5)] == [False, False, False, True]
    for place in (2, 3):
        with pytest.raises(OSError, match="can't be read"):
            holds(SPECS[place])
    assert sorted(store.runs.iterdir()) == before

    bad: list[Bad] = []
    keys = [key for _, key in each_kept(store.out, kept_key, bad.append)]
    assert keys == sorted(spec.key for spec in SPECS[5:])
    assert bad == [found for found in inventory.kept_records(store.out) if isinstance(found, Bad)]
    assert len(bad) == 5

    load = store.loading(SPECS)
    with caplog.at_level(logging.WARNING):
        assert [load(SPECS[place]) for place in (0, 1, 4, 5)] == [None] * 3 + [record_of(SPECS[5])]
    assert len(caplog.messages) == 3
    with pytest.raises(OSError, match="can't be read by this version"):
        load(SPECS[2])


def test_the_tools_say_the_same(
    store: Store,
    several: list[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(["verify", str(store.out)]) == 0
    assert "12 records in" in capsys.readouterr().out
    table = columns_of(store.out, print)
    assert len(several) == 4
    monkeypatch.setattr(reading, "WORTH", 10**9)
    assert columns_of(store.out, print) == table
    assert len(several) == 4
    assert sorted(table["key"]) == sorted(spec.key for spec in SPECS)  # type: ignore[type-var]


def test_a_structure_that_only_this_process_knows_is_read_here(
    store: Store, several: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "KINDS", dict(registry.KINDS))

    @registry.register
    @dataclass(frozen=True)
    class Ring(Connectivity):
        kind: ClassVar[str] = "ring_of_this_test"

        @property
        def label(self) -> str:
            return "ring"

        def weights(self, N: int, rng: np.random.Generator) -> Matrix:
            return np.eye(N)

    own = RunSpec("2AF", Ring(), 0, N=10, iterations=200)
    store.save(record_of(own))
    bad: list[Bad] = []
    assert own.key in {key for _, key in each_kept(store.out, kept_key, bad.append)}
    assert bad == []
    assert len(several) == 2
    assert store.loading([own, *SPECS])(own) == record_of(own)
