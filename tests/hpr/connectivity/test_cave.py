"""These tests fetch from a stand-in of CAVE's service, and check what is asked for, chosen and written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpr.connectivity.cave import fetch, main
from hpr.connectivity.connectome import read_folder
from hpr.system.extras import install

BASE = 864691135571361300
# Depths are in nm. The layers' means are 200 and 400 µm, so their midpoint is 300 µm.
TYPES = {
    "pt_root_id": np.array([BASE + n for n in (1, 2, 3, 4, 5, 6, 6)]),
    "cell_type": np.array(["23P", "23P", "4P", "4P", "BC", "MC", "MC"]),
    "classification_system": np.array(
        ["aibs_coarse_excitatory"] * 4 + ["aibs_coarse_inhibitory"] * 3
    ),
    "pt_position_y": np.array([100e3, 300e3, 390e3, 410e3, 320e3, 300e3, 300e3]),
}
STATUS = {
    "pt_root_id": np.array([BASE + n for n in (1, 2, 3, 4, 5, 6)]),
    "status_axon": np.array(["t", "t", "f", "t", "t", "t"]),
    "status_dendrite": np.array(["t", "t", "t", "t", "t", "t"]),
}
SYNAPSES = {
    "pre_pt_root_id": np.array([BASE + 2, BASE + 5]),
    "post_pt_root_id": np.array([BASE + 5, BASE + 4]),
    "size": np.array([700, 900]),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list that every question to the service is appended to."""
    questions: list[Any] = []

    def query_table(table: str, **options: Any) -> Any:
        questions.append((table, options))
        return {"allen_v1_column_types_slanted_ref": TYPES}.get(table, STATUS)

    def synapse_query(**options: Any) -> Any:
        questions.append(("synapses", options))
        return SYNAPSES

    service = SimpleNamespace(query_table=query_table, synapse_query=synapse_query)

    def client(datastack: str, *, version: int) -> Any:
        questions.append((datastack, version))
        return SimpleNamespace(materialize=service)

    module = ModuleType("caveclient")
    module.CAVEclient = client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "caveclient", module)
    return questions


def test_the_proofread_cells_nearest_the_midpoint_are_written(
    tmp_path: Path, asked: list[Any]
) -> None:
    fetch(tmp_path / "column", N=3, version=1300)
    connectome = read_folder(tmp_path / "column")
    # Cell 3 has no proofread axon, 6 is two nuclei in one segment, and 1 is the farthest.
    assert connectome.cells == tuple(str(BASE + n) for n in (2, 5, 4))
    np.testing.assert_array_equal(connectome.weights, [[0, 0, 0], [700, 0, 0], [0, -900, 0]])
    assert asked[0] == ("minnie65_public", 1300)
    assert [question for question, _ in asked[1:]] == [
        "allen_v1_column_types_slanted_ref",
        "proofreading_status_and_strategy",
        "synapses",
    ]
    assert all(options["materialization_version"] == 1300 for _, options in asked[1:])
    ids = [BASE + n for n in (2, 5, 4)]
    assert asked[-1][1]["pre_ids"] == asked[-1][1]["post_ids"] == ids


@pytest.mark.usefixtures("asked")
def test_too_few_cells_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="N: expected at most the 4 proofread neurons there, got 9"
    ):
        fetch(tmp_path, N=9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("table", [TYPES, STATUS, SYNAPSES], ids=["types", "status", "synapses"])
def test_identifiers_that_came_as_floats_are_refused(
    tmp_path: Path, table: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(table))
    monkeypatch.setitem(table, name, table[name].astype(float))
    with pytest.raises(ValueError, match=f"{name}: expected whole numbers from the service"):
        fetch(tmp_path, N=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("asked")
def test_no_cells_are_left_beside_synapses_of_others(tmp_path: Path) -> None:
    fetch(tmp_path, N=3)
    (tmp_path / "synapses.csv").unlink()
    (tmp_path / "synapses.csv").mkdir()
    with pytest.raises(IsADirectoryError):
        fetch(tmp_path, N=2)
    assert not (tmp_path / "cells.csv").exists()


def test_without_caveclient_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "caveclient", None)
    monkeypatch.setattr(sys, "argv", ["cave", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"install what it needs: {install('em')}" in line


@pytest.mark.parametrize("cells", ["0", "-3", "few", "1.5"])
def test_cells_are_a_positive_integer(
    tmp_path: Path, cells: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["cave", str(tmp_path), f"--cells={cells}"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--cells: expected an integer from 1 to 9999999, got {cells!r}" in line
    with pytest.raises(ValueError, match="N: expected an integer of at least 1, got 0"):
        fetch(tmp_path, N=0)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (KeyError("size"), "KeyError: 'size'"),
        (ConnectionError("no\nroute"), "ConnectionError: no route"),
        (None, "ValueError: N: expected at most the 4 proofread neurons there, got 198"),
    ],
    ids=["table", "network", "too few"],
)
def test_whatever_fails_is_one_line(
    tmp_path: Path,
    asked: list[Any],
    failure: Exception | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def client(*_: Any, **__: Any) -> Any:
        raise failure

    if failure is not None:
        monkeypatch.setattr(sys.modules["caveclient"], "CAVEclient", client)
    monkeypatch.setattr(sys, "argv", ["cave", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"hpr.connectivity.cave: error: {message}\n"
